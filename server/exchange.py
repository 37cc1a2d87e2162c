"""Messages of the protocol over a Flower Grid: what was sent to whom, and the reply to each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.flwr_private import pull, push_inline
from common.manifest import Manifest
from common.messages import CONTENT, RECORD, Describe, Description, Evaluation, ProtocolError, Task, Update
from server.state import Node, Send

ASK_TTL_S = 30.0
"""How long a question who a client is stays valid."""


@dataclass(frozen=True)
class Sent:
    """A message that has no reply yet."""

    node: Node
    number: int
    """The round it belongs to; 0 for a question who the client is."""
    manifest: Manifest | None
    """The version that it asked about; None for a question who the client is."""


@dataclass(frozen=True)
class Reply:
    """What came back for a message."""

    sent: Sent
    answer: Description | Update | Evaluation | None
    """None if the reply is an error."""
    problem: str
    """The error; empty if there is an answer."""
    message: Message
    bytes_up: int


class Exchange:
    """The conversation of one run with its clients.

    Args:
        grid: Flower's connection to them.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sent: dict[str, Sent] = {}
        self._inline: set[Node] = set()

    def nodes(self) -> frozenset[Node]:
        """The nodes that are connected now."""
        return frozenset(self._grid.get_node_ids())

    def ask(self, node: Node, refused: str | None) -> None:
        """Ask a client who it is; with a reason, tell it that there is no work for it."""
        message = Message(_content(Describe(refused)), node, MessageType.QUERY, ttl=ASK_TTL_S)
        self._remember(self._grid.push_messages([message]), [Sent(node, 0, None)])

    def send(self, order: Send, manifest: Manifest, ttl_s: float) -> int:
        """Send a version to train on or to measure; the bytes of all messages' content together."""
        content = _content(Task(manifest))
        kind = MessageType.TRAIN if order.kind == "train" else MessageType.EVALUATE
        inline = [node for node in order.nodes if node in self._inline]
        by_objects = [node for node in order.nodes if node not in self._inline]
        for nodes, push in (
            (inline, partial(push_inline, self._grid)),
            (by_objects, self._grid.push_messages),
        ):
            messages = [Message(content, node, kind, ttl=ttl_s, group_id=str(order.number)) for node in nodes]
            self._remember(push(messages), [Sent(node, order.number, manifest) for node in nodes])
        return len(order.nodes) * len(_packed(content))

    def replies(self) -> list[Reply]:
        """What has come back since the last call."""
        if not self._sent:
            return []
        messages = pull(self._grid, list(self._sent))
        pairs = (
            (message, self._sent.pop(message.metadata.reply_to_message_id, None)) for message in messages
        )
        return [self._reply(message, sent) for message, sent in pairs if sent is not None]

    def _remember(self, message_ids: Iterable[str], sent: list[Sent]) -> None:
        for message_id, record in zip(message_ids, sent, strict=True):
            if message_id:
                self._sent[message_id] = record

    def _reply(self, message: Message, sent: Sent) -> Reply:
        if message.has_error():
            return Reply(sent, None, message.error.reason or "error without a reason", message, 0)
        try:
            content = _packed(message.content)
            answer = _unpack(content, message.metadata.message_type)
        except ProtocolError as error:
            return Reply(sent, None, f"ProtocolError: {error}", message, 0)
        if isinstance(answer, Description) and answer.inline:
            self._inline.add(sent.node)
        return Reply(sent, answer, "", message, len(content))


def _unpack(content: bytes, kind: str) -> Description | Update | Evaluation:
    match kind:
        case MessageType.QUERY:
            return Description.unpack(content)
        case MessageType.TRAIN:
            return Update.unpack(content)
        case _:
            return Evaluation.unpack(content)


def _content(message: Describe | Task) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({CONTENT: message.pack()})})


def _packed(content: RecordDict) -> bytes:
    record = content.get(RECORD)
    packed = record.get(CONTENT) if isinstance(record, ConfigRecord) else None
    if not isinstance(packed, bytes):
        raise ProtocolError(f"a message without '{RECORD}/{CONTENT}': not from flockwatch")
    return packed
