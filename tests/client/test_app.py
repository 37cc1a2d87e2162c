"""The ClientApp: Flower's messages in, Flower's messages out."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app, build
from client.data.partition import Partition
from client.training.worker import ClientWorker
from common.formats import bundle
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.messages import Describe, Description, Evaluation, Task, Update, WholeVersion
from common.protocol.wire import CONTENT, RECORD, ProtocolError, pack, unpack

ROWS = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32)
CONTEXT = Context(1, 1, {}, RecordDict(), {}, 1)


@pytest.fixture(autouse=True)
def a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower stamps messages with the task that makes them."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture
def answer():
    edge = ClientWorker(Partition("edge", Schema(("a", "b")), ROWS, ROWS[:0], None), "instance", inline=True)
    ours = build(lambda _: edge)

    def send(kind: str, content: object) -> bytes:
        message = Message(RecordDict({RECORD: ConfigRecord({CONTENT: content})}), 1, kind)
        message.metadata.__dict__["_message_id"] = "id"
        reply = ours(message, CONTEXT)
        assert reply.metadata.reply_to_message_id == "id"
        return reply.content[RECORD][CONTENT]

    return send


def task() -> bytes:
    shape = Architecture(2, 1, (2,))
    moments, settings = Moments.of(ROWS), VersionSettings()
    manifest = Manifest(0, Schema(("a", "b")), shape, shape.initial_weights(0), moments, settings)
    return pack(WholeVersion.of(Task(manifest)))


def test_a_query_is_answered_with_a_description(answer) -> None:
    described = unpack(answer(MessageType.QUERY, pack(Describe())), Description)
    assert (described.client, described.inline) == ("edge", True)


def test_a_refused_client_says_why(answer, caplog: pytest.LogCaptureFixture) -> None:
    answer(MessageType.QUERY, pack(Describe("the name is taken")))
    assert "the name is taken" in caplog.text


def test_a_task_to_train_is_answered_with_an_update(answer) -> None:
    assert unpack(answer(MessageType.TRAIN, task()), Update).rows == 90


def test_a_task_to_evaluate_is_answered_with_an_evaluation(answer) -> None:
    assert unpack(answer(MessageType.EVALUATE, task()), Evaluation).error.count == 10


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (task()[:-5], "not a WholeVersion or a VersionChange"),
        (b"", "not a WholeVersion or a VersionChange"),
        (pack(Describe()), "expected a WholeVersion or a VersionChange, received a Describe"),
        (bundle.pack({"message": "Task", "protocol": 1}, {}), "protocol 1, but this program speaks 7"),
        ("text", "is str, expected bytes"),
    ],
)
def test_content_that_is_not_a_task_is_refused_with_a_reason(answer, content: object, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        answer(MessageType.TRAIN, content)


def test_a_message_of_another_program_is_refused(answer) -> None:
    ours = build(lambda _: pytest.fail("no edge is asked"))
    message = Message(RecordDict({"other": ConfigRecord({"a": 1})}), 1, MessageType.TRAIN)
    with pytest.raises(ProtocolError, match="not from flockwatch"):
        ours(message, CONTEXT)


def test_a_stock_supernode_without_data_gets_an_error_that_says_how_to_name_it() -> None:
    message = Message(RecordDict({RECORD: ConfigRecord({CONTENT: pack(Describe())})}), 1, MessageType.QUERY)
    with pytest.raises(ValueError, match="--node-config 'data="):
        app(message, CONTEXT)
