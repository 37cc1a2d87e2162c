"""Messages over a grid that delivers what the test puts into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.flower.stamps import set_message_id
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.messages import Describe, Description, Task, TaskOptions, VersionMissing, WholeVersion
from common.protocol.wire import CONTENT, RECORD, pack, unpack
from server.coordination.actions import RequestDescription
from server.federation.compression import VersionChain
from server.federation.exchange import MessageExchange
from server.federation.replies import DUPLICATE, OutgoingTask
from tests.server.descriptions import description
from tests.server.replies import update

TTL_S = 60.0


class FakeGrid(Grid):
    """Keeps what is sent; delivers each reply at every pull."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.replies: list[Message] = []

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            set_message_id(message)
            self.sent.append(message)
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return list(self.replies)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        raise NotImplementedError

    def answer(self, index: int, answer: Any) -> None:
        """Answer the message of this index."""
        content = RecordDict({RECORD: ConfigRecord({CONTENT: pack(answer)})})
        self.replies.append(Message(content, reply_to=self.sent[index]))


def manifest(version: int, scale: float = 1.0) -> Manifest:
    architecture = Architecture(1, window=1, hidden=(2,))
    weights = {n: a * np.float32(scale) for n, a in architecture.initial_weights(0).items()}
    moments = Moments.of(np.array([[0.0], [1.0]]))
    return Manifest(version, Schema(("f",)), architecture, weights, moments, VersionSettings())


def outgoing(node: int, task_number: int, task: Task, held: str = "") -> OutgoingTask:
    known = description("abc"[node - 1], "i", ("f",))
    codecs = ("none", "int8")
    return OutgoingTask(
        node, task_number, "train", task,
        Description(known.client, "i", known.schema, known.moments, True, codecs=codecs, held=held),
    )  # fmt: skip


def kinds(grid: FakeGrid) -> list[tuple[int, str]]:
    return [(m.metadata.dst_node_id, m.metadata.message_type) for m in grid.sent]


@pytest.fixture
def grid() -> FakeGrid:
    return FakeGrid()


def test_equal_tasks_are_packed_once(grid: FakeGrid) -> None:
    exchange = MessageExchange(grid, VersionChain())
    version = manifest(0)
    same, other = Task(version), Task(version, 0, TaskOptions(codec="int8"))
    tasks = [outgoing(1, 11, same), outgoing(2, 12, Task(version)), outgoing(3, 13, other)]
    exchange.send_tasks(tasks, TTL_S)
    assert kinds(grid) == [(node, MessageType.TRAIN) for node in (1, 2, 3)]
    assert grid.sent[0].content is grid.sent[1].content
    assert grid.sent[0].content is not grid.sent[2].content
    assert exchange.take_bytes_down() == sum(len(m.content[RECORD][CONTENT]) for m in grid.sent)  # type: ignore[arg-type]
    assert exchange.take_bytes_down() == 0


def test_each_reply_is_matched_with_its_message_tasks_first(grid: FakeGrid) -> None:
    exchange = MessageExchange(grid, VersionChain())
    exchange.request_descriptions([RequestDescription(1, 10)], inline_nodes=set())
    exchange.send_tasks([outgoing(2, 11, Task(manifest(0)))], TTL_S)
    grid.answer(0, description("a", "i", ("f",)))
    grid.answer(1, update("b", version=0).encoded())
    first, second = exchange.receive()
    assert (first.sent.node, first.sent.number, first.sent.kind) == (2, 11, "train")
    assert (second.sent.node, second.sent.number, second.sent.kind) == (1, 10, None)
    assert first.bytes_up > 0
    assert not first.error + second.error


def test_the_newest_version_goes_with_a_request_to_a_client_that_lacks_it(grid: FakeGrid) -> None:
    exchange, newest = MessageExchange(grid, VersionChain(), window=9), manifest(4)
    exchange.request_descriptions([RequestDescription(1, 10)], set())
    requests = [RequestDescription(1, 11), RequestDescription(2, 12, deliver=True)]
    exchange.request_descriptions(requests, set(), newest)
    first, asked, delivered = (m.content[RECORD][CONTENT] for m in grid.sent)
    assert unpack(first, Describe).window == 9
    assert unpack(asked, Describe).window == 1  # the newest version's
    assert unpack(delivered, WholeVersion).task().manifest.hash == newest.hash
    assert kinds(grid) == [(node, MessageType.QUERY) for node in (1, 1, 2)]
    grid.answer(2, description("b", "i", ("f",)))
    (reply,) = exchange.receive()
    assert (reply.sent.number, reply.sent.kind) == (12, None)
    assert exchange.take_bytes_down() == len(delivered)


def test_a_second_reply_to_one_message_is_a_duplicate(grid: FakeGrid) -> None:
    exchange = MessageExchange(grid, VersionChain())
    exchange.send_tasks([outgoing(1, 11, Task(manifest(0))), outgoing(2, 12, Task(manifest(0)))], TTL_S)
    grid.answer(0, update("a", version=0).encoded())
    (reply,) = exchange.receive()
    assert reply.answer is not None
    (again,) = exchange.receive()  # node 2 is still awaited, so the grid is polled
    assert (again.answer, again.error_kind, again.sent.number) == (None, DUPLICATE, 11)


def test_replies_that_nothing_waits_for_are_ignored(grid: FakeGrid) -> None:
    exchange = MessageExchange(grid, VersionChain())
    exchange.send_tasks([outgoing(1, 11, Task(manifest(0))), outgoing(2, 12, Task(manifest(0)))], TTL_S)
    exchange.keep_only({12})
    grid.answer(0, update("a", version=0).encoded())
    assert exchange.receive() == []


def test_an_error_and_a_wrong_answer_have_their_kind(grid: FakeGrid) -> None:
    exchange = MessageExchange(grid, VersionChain())
    exchange.send_tasks([outgoing(1, 11, Task(manifest(0))), outgoing(2, 12, Task(manifest(0)))], TTL_S)
    grid.replies.append(Message(Error(1, "out of memory"), reply_to=grid.sent[0]))
    grid.answer(1, description("b", "i", ("f",)))  # not what a training task asks for
    failed, wrong = exchange.receive()
    assert (failed.error_kind, failed.error) == ("failed", "out of memory")
    assert (wrong.answer, wrong.error_kind) == (None, "protocol")


def test_a_client_that_cannot_apply_a_change_is_sent_the_whole_version(grid: FakeGrid) -> None:
    first, second = manifest(0), manifest(1, 1.5)
    chain = VersionChain()
    weights, block = chain.encoded(first, second.weights, "int8")
    second = Manifest(1, first.schema, first.architecture, weights, first.moments, first.settings)
    chain.extend(first, second, block)
    exchange = MessageExchange(grid, chain)
    exchange.request_descriptions([RequestDescription(1, 10)], inline_nodes=set())
    known = description("a", "i", ("f",))
    grid.answer(0, Description("a", "i", known.schema, known.moments, True, held=first.hash))
    assert len(exchange.receive()) == 1
    grid.replies.clear()

    exchange.send_tasks([outgoing(1, 11, Task(second, 0, TaskOptions(keep=True)))], TTL_S)
    grid.answer(1, VersionMissing("a", "no version is held"))
    assert exchange.receive() == []  # no reply yet: the whole version is on its way
    change, whole = (message.content[RECORD][CONTENT] for message in grid.sent[1:])
    assert change != whole
    grid.replies.clear()
    grid.answer(2, update("a", version=1).encoded())
    (reply,) = exchange.receive()
    assert (reply.sent.number, reply.error) == (11, "")


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({RECORD: ConfigRecord({CONTENT: 3})}),
        RecordDict({RECORD: ConfigRecord({CONTENT: b""})}),
        RecordDict({RECORD: ConfigRecord({CONTENT: bytes([7]) + b"\x91" * 60_000})}),
        RecordDict({RECORD: ConfigRecord({CONTENT: (2**63).to_bytes(8, "little") + b"[" * 60_000})}),
    ],
    ids=["nothing", "a number", "no bytes", "deep", "a long header"],
)
def test_no_content_ends_the_exchange(grid: FakeGrid, content: RecordDict) -> None:
    exchange = MessageExchange(grid, VersionChain())
    exchange.send_tasks([outgoing(1, 11, Task(manifest(0))), outgoing(2, 12, Task(manifest(0)))], TTL_S)
    grid.replies.append(Message(content, reply_to=grid.sent[0]))
    grid.answer(1, update("b", version=0).encoded())
    bad, good = exchange.receive()
    assert (bad.error_kind, bad.answer) == ("protocol", None)
    assert len(bad.error) <= 300
    assert good.answer is not None
