"""Messages of the protocol over a Flower Grid: what was sent to whom, and the reply to each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.flwr_private import beats, pull, push_inline
from common.manifest import Manifest
from common.messages import CONTENT, RECORD, Describe, Description, Evaluation, ProtocolError, Task, Update
from server.liveness import Pulse
from server.state import Ask, Kind, Node, Order, Send

ASK_TTL_S = 30.0
"""How long a question who a client is stays valid."""


MOST_ANSWERED = 4096
"""Messages that are remembered as answered, so that a second reply is known for what it is."""


@dataclass(frozen=True)
class Sent:
    """A message that has no reply yet."""

    node: Node
    number: int
    """Of the question or the task."""
    kind: Kind | None
    """None for a question who the client is."""
    version: int
    """That a task asks about."""


@dataclass(frozen=True)
class Reply:
    """What came back for a message."""

    sent: Sent
    answer: Description | Update | Evaluation | None
    """None if the reply is an error."""
    problem: str
    """The error; empty if there is an answer."""
    fault: str
    """One word to count the error under: failed, protocol, twice; empty if there is an answer."""
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
        self._answered: OrderedDict[str, Sent] = OrderedDict()
        self._inline: set[Node] = set()
        self._pulse = Pulse()

    def nodes(self, now: float) -> frozenset[Node]:
        """The nodes that are connected and show signs of life."""
        listed = beats(self._grid)
        self._inline &= listed.keys()
        return self._pulse.alive(listed, now)

    def ask(self, questions: Sequence[Ask]) -> None:
        """Ask clients who they are; one that is refused is told why there is no work for it."""
        messages = [
            Message(_content(Describe(q.refused)), q.node, MessageType.QUERY, ttl=ASK_TTL_S)
            for q in questions
        ]
        if messages:
            sent = [Sent(q.node, q.number, None, 0) for q in questions]
            self._remember(self._grid.push_messages(messages), sent)

    def send(self, order: Send, manifest: Manifest, ttl_s: float) -> int:
        """Send a version to train on or to measure; the bytes of all messages' content together."""
        contents = {again: _content(Task(manifest, again)) for again in {o.again for o in order.orders}}
        inline = [o for o in order.orders if o.node in self._inline]
        by_objects = [o for o in order.orders if o.node not in self._inline]
        self._push(inline, order.kind, contents, manifest, ttl_s, True)
        self._push(by_objects, order.kind, contents, manifest, ttl_s, False)
        return sum(len(_packed(contents[o.again])) for o in order.orders)

    def replies(self) -> list[Reply]:
        """What has come back since the last call: answers to tasks first.

        A client that says who it is has answered all earlier tasks before.
        """
        if not self._sent:
            return []
        found = [self._matched(message) for message in pull(self._grid, list(self._sent))]
        replies = [reply for reply in found if reply is not None]
        return sorted(replies, key=lambda reply: isinstance(reply.answer, Description))

    def forget_all_but(self, numbers: Collection[int]) -> None:
        """Wait no longer for answers to tasks other than these. Questions end by themselves."""
        self._sent = {i: s for i, s in self._sent.items() if s.kind is None or s.number in numbers}

    def _push(
        self,
        orders: list[Order],
        kind: Kind,
        contents: dict[int, RecordDict],
        manifest: Manifest,
        ttl_s: float,
        inline: bool,
    ) -> None:
        flower_kind = MessageType.TRAIN if kind == "train" else MessageType.EVALUATE
        group = str(manifest.version)
        messages = [
            Message(contents[o.again], o.node, flower_kind, ttl=ttl_s, group_id=group) for o in orders
        ]
        push = partial(push_inline, self._grid) if inline else self._grid.push_messages
        if messages:
            self._remember(push(messages), [Sent(o.node, o.number, kind, manifest.version) for o in orders])

    def _remember(self, message_ids: Iterable[str], sent: list[Sent]) -> None:
        for message_id, record in zip(message_ids, sent, strict=True):
            if message_id:
                self._sent[message_id] = record

    def _matched(self, message: Message) -> Reply | None:
        """A reply with what it answers; None if nobody waits for it any more."""
        message_id = message.metadata.reply_to_message_id
        if (before := self._answered.get(message_id)) is not None:
            return Reply(before, None, "it comes twice", "twice", message, 0)
        sent = self._sent.pop(message_id, None)
        if sent is None:
            return None
        self._answered[message_id] = sent
        if len(self._answered) > MOST_ANSWERED:
            self._answered.popitem(last=False)
        return self._reply(message, sent)

    def _reply(self, message: Message, sent: Sent) -> Reply:
        if message.has_error():
            return Reply(sent, None, message.error.reason or "error without a reason", "failed", message, 0)
        try:
            content = _packed(message.content)
            answer = _unpack(content, message.metadata.message_type)
        except ProtocolError as error:
            return Reply(sent, None, f"ProtocolError: {error}", "protocol", message, 0)
        if isinstance(answer, Description) and answer.inline:
            self._inline.add(sent.node)
        return Reply(sent, answer, "", "", message, len(content))


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
