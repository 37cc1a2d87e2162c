"""Flower's grid: messages over HTTP with their content inline instead of as objects, or in memory.

SuperLink can only be asked for replies; `PollTimer` says when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import HEARTBEAT_PATIENCE, ErrorCode
from flwr.common.serde import message_from_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.superlink.grid.http_grid import HttpGrid

from common.flower.packing import READ_ERRORS, fetch, has_content, inline
from common.flower.stamps import set_message_id

MAX_REQUEST_BYTES = 16 * 2**20

UNREADABLE = 1001
"""Code of the error in place of a reply that Flower cannot read; Flower's own codes are below 1000."""

MIN_POLL_S, MAX_POLL_S = 0.01, 0.25
"""Bounds of the wait between two polls."""

POLL_SHARE = 0.05
"""The wait before a poll, as a share of the time since the last reply."""

POLL_SMOOTHING = 0.1
"""Weight of the newest interval between replies in their mean."""


def last_heartbeats(grid: Grid) -> dict[int, float | None]:
    """Return the time of each connected node's last heartbeat on the server's clock; None if not known."""
    if not isinstance(grid, HttpGrid):
        return dict.fromkeys(grid.get_node_ids())
    # SuperLink stores the last heartbeat plus `HEARTBEAT_PATIENCE` intervals.
    return {
        int(node.node_id): node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        for node in grid.get_nodes()
    }


def public_keys(grid: Grid) -> dict[int, bytes]:
    """Return the public key of each connected node, in PEM."""
    return {int(n.node_id): n.public_key for n in grid.get_nodes()} if isinstance(grid, HttpGrid) else {}


def push_inline(grid: Grid, messages: list[Message]) -> list[str]:
    """Send messages with their content inline, and return their ids.

    The nodes must use `FleetConnection`; a stock SuperNode expects objects. A grid other than `HttpGrid`
    sends the messages by its own `push_messages`.
    """
    if not isinstance(grid, HttpGrid):
        return list(grid.push_messages(messages))
    with no_object_id_recompute():
        packed = [inline(message) for message in messages]
    ids: list[str] = []
    for batch in _batches(packed):
        protos, trees = zip(*batch, strict=True)
        response = grid._runtime_client.PushMessages(
            PushAppMessagesRequest(messages_list=protos, message_object_trees=trees)
        )
        ids += response.message_ids
    return ids


def pull_replies(grid: Grid, message_ids: list[str]) -> list[Message]:
    """Return the replies that have arrived to these messages, with inline content or with objects."""
    if not isinstance(grid, HttpGrid):
        return list(grid.pull_messages(message_ids))
    client, node, run_id = grid._runtime_client, grid.node, grid.run.run_id
    response = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    pull_object = make_pull_object_fn_protobuf(client.PullObject, node, run_id)
    confirm = make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id)
    pairs = zip(response.messages_list, response.message_object_trees, strict=True)
    return [_reply(proto, tree, pull_object, confirm) for proto, tree in pairs]


def is_unreadable(message: Message) -> bool:
    """Return whether a message stands for a reply that Flower could not read."""
    return bool(message.has_error() and message.error.code == UNREADABLE)


def _reply(
    proto: ProtoMessage,
    tree: ObjectTree,
    pull_object: Callable[[str], bytes],
    confirm: Callable[[str], None],
) -> Message:
    """Return a reply with its content, or an error if its content cannot be fetched or read."""
    try:
        reply = message_from_proto(proto)
        return reply if has_content(reply) else fetch(proto, tree, pull_object, confirm)
    except READ_ERRORS as error:
        code, reason = UNREADABLE, f"{type(error).__name__}: {error}"
    except Exception as error:  # its objects cannot be fetched; if SuperLink is down, the next call raises
        code, reason = ErrorCode.MESSAGE_UNAVAILABLE, f"{type(error).__name__}: {error}"
    return make_message(metadata_from_proto(proto.metadata), error=Error(code, reason))


def _batches(
    packed: list[tuple[ProtoMessage, ObjectTree]],
) -> Iterator[list[tuple[ProtoMessage, ObjectTree]]]:
    """Split messages into batches of at most `MAX_REQUEST_BYTES`; a larger message is a batch by itself."""
    batch: list[tuple[ProtoMessage, ObjectTree]] = []
    size = 0
    for proto, tree in packed:
        if batch and size + proto.ByteSize() > MAX_REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((proto, tree))
        size += proto.ByteSize()
    if batch:
        yield batch


class MemoryGrid(Grid):
    """Calls a node's ClientApp when a message is pushed; the reply is available at once.

    The process must have taken a task (`common.flower.stamps.set_task`).

    Args:
        apps: The ClientApp of each node, by node id.
        record: Whether to append each message to `sent`.
    """

    def __init__(self, apps: dict[int, ClientApp], record: bool = False) -> None:
        self._apps = apps
        self._record = record
        self.sent: list[Message] = []
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Not used."""

    @property
    def run(self) -> Any:
        """Not used."""

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Not used."""
        raise AssertionError("deprecated in Flower")

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Compute the reply to each message, and return the messages' ids."""
        ids = []
        for message in messages:
            set_message_id(message)
            node = message.metadata.dst_node_id
            context = Context(1, node, {}, RecordDict(), {}, 1)
            self._replies[message.object_id] = self._apps[node](message, context)
            if self._record:
                self.sent.append(message)
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages; each reply is returned once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Not used."""
        raise AssertionError("blocks, so flockwatch does not use it")


class PollTimer:
    """Computes the wait before the next poll.

    Args:
        now: Seconds on a monotonic clock.
        streaming: Whether replies come one by one, as in asynchronous training, instead of together.

    >>> timer = PollTimer(now=0.0, streaming=False)
    >>> timer.wait_s(1.0), timer.wait_s(60.0)
    (0.05, 0.25)
    >>> timer.received(2, 60.0)
    >>> timer.wait_s(60.0)
    0.01
    """

    def __init__(self, now: float, streaming: bool) -> None:
        self._streaming = streaming
        self._last_reply_at = now
        self._interval_s = MIN_POLL_S

    def received(self, replies: int, now: float) -> None:
        """Record the number of replies of a poll."""
        if replies:
            interval_s = (now - self._last_reply_at) / replies
            self._interval_s += POLL_SMOOTHING * (interval_s - self._interval_s)
            self._last_reply_at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds to wait.

        If replies come one by one, the wait is at least half of their mean interval: each poll takes as much
        time of SuperLink as a client's poll.
        """
        stream_s = self._interval_s / 2 if self._streaming else 0.0
        wait_s = max(POLL_SHARE * (now - self._last_reply_at), stream_s, MIN_POLL_S)
        return min(wait_s, MAX_POLL_S)
