"""Messages of the protocol over a Flower Grid: what was sent to whom, and the reply to each."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.model.manifest import Manifest
from common.protocol.changes import VersionChange, VersionMissing, VersionStep
from common.protocol.messages import (
    CONTENT,
    RECORD,
    Describe,
    Description,
    Evaluation,
    ProtocolError,
    Task,
    TaskOptions,
    Update,
)
from common.protocol.wire import name_in
from server.access.roster import Roster, RosterError
from server.coordination.state import AskDescription, Kind, Node, SendTasks
from server.federation.heartbeats import HeartbeatMonitor
from server.federation.version_chain import VersionChain
from server.flower.grid import beats, public_keys, pull, push_inline

log = logging.getLogger(__name__)

ASK_TTL_S = 30.0
"""How long a question who a client is stays valid."""


MAX_ANSWERED = 4096
"""Messages that are remembered as answered, so that a second reply is known for what it is."""


@dataclass(frozen=True)
class SentMessage:
    """A message that has no reply yet."""

    node: Node
    number: int
    """Of the question or the task."""
    kind: Kind | None
    """None for a question who the client is."""
    version: int = 0
    """That a task asks about."""
    kept: str = ""
    """Hash of that version, if the client is to hold it."""
    ttl_s: float = 0.0
    change_of: Task | None = None
    """The task, where it was told as a change: for a client that cannot use it."""


@dataclass(frozen=True)
class Reply:
    """What came back for a message."""

    sent: SentMessage
    answer: Description | Update | Evaluation | None
    """None if the reply is an error."""
    problem: str
    """The error; empty if there is an answer."""
    fault: str
    """One word to count the error under: failed, protocol, twice; empty if there is an answer."""
    message: Message
    bytes_up: int
    owner: str | None = None
    """Of a description: the client that the node's key was registered for, where keys count."""

    @property
    def codec(self) -> str | None:
        """Of the update; None where it came as it is, or there is none."""
        block = self.answer.block if isinstance(self.answer, Update) else None
        return block.codec if block is not None else None


class MessageExchange:
    """The conversation of one run with its clients.

    Args:
        grid: Flower's connection to them.
        chain: The steps between versions, for clients that hold an earlier one.
        roster: The registered clients, where keys count.
    """

    def __init__(self, grid: Grid, chain: VersionChain | None = None, roster: Roster | None = None) -> None:
        self._grid = grid
        self._chain = chain or VersionChain()
        self._roster = roster
        self._sent: dict[str, SentMessage] = {}
        self._answered: OrderedDict[str, SentMessage] = OrderedDict()
        self._described: dict[Node, Description] = {}
        self._held: dict[Node, str] = {}
        """Hashes of the versions that clients hold, as far as that is known."""
        self._pulse = HeartbeatMonitor()
        self._bytes_down = 0

    def nodes(self, now: float) -> frozenset[Node]:
        """The nodes that are connected and show signs of life."""
        listed = beats(self._grid)
        self._described = {n: d for n, d in self._described.items() if n in listed}
        self._held = {n: h for n, h in self._held.items() if n in listed}
        return self._pulse.alive(listed, now)

    def ask(self, questions: Sequence[AskDescription]) -> None:
        """Ask clients who they are; one that is refused is told why there is no work for it."""
        sent = [SentMessage(q.node, q.number, None) for q in questions]
        self._post([(one, _question(q)) for one, q in zip(sent, questions, strict=True)])

    def send(
        self,
        order: SendTasks,
        manifest: Manifest,
        ttl_s: float,
        terms: Callable[[Node], TaskOptions] = lambda _: TaskOptions(),
    ) -> None:
        """Send a version to train on or to measure; as a change, to clients that hold an earlier one."""
        contents: dict[tuple[int, TaskOptions, tuple[int, ...] | None], RecordDict] = {}
        parcels = []
        for one in order.orders:
            task = Task(manifest, one.again, terms(one.node))
            steps = self._steps(one.node, task)
            key = (one.again, task.terms, None if steps is None else tuple(s.version for s in steps))
            if key not in contents:
                contents[key] = _content(task if steps is None else VersionChange.of(task, steps))
            kept = manifest.hash if task.terms.keep else ""
            whole = None if steps is None else task
            sent = SentMessage(one.node, one.number, order.kind, manifest.version, kept, ttl_s, whole)
            parcels.append((sent, contents[key]))
        self._push(parcels)

    def replies(self) -> list[Reply]:
        """What has come back since the last call: answers to tasks first.

        A client that says who it is has answered all earlier tasks before.
        """
        if not self._sent:
            return []
        found = [self._matched(message) for message in pull(self._grid, list(self._sent))]
        replies = [reply for reply in found if reply is not None]
        return sorted(replies, key=lambda reply: isinstance(reply.answer, Description))

    def taken_bytes_down(self) -> int:
        """Bytes of the content of all tasks that were sent since the last call."""
        taken, self._bytes_down = self._bytes_down, 0
        return taken

    def forget_all_but(self, numbers: Collection[int]) -> None:
        """Wait no longer for answers to tasks other than these. Questions end by themselves."""
        self._sent = {i: s for i, s in self._sent.items() if s.kind is None or s.number in numbers}

    def _steps(self, node: Node, task: Task) -> tuple[VersionStep, ...] | None:
        """What leads from the version that a client holds to the task's; None where it needs the whole."""
        held, description = self._held.get(node), self._described.get(node)
        if not held or description is None or not task.terms.keep:
            return None
        return self._chain.path(held, task.manifest, description.codecs)

    def _push(self, parcels: Sequence[tuple[SentMessage, RecordDict]]) -> None:
        """Send tasks."""
        self._post([(sent, _order(sent, content)) for sent, content in parcels])
        self._bytes_down += sum(len(_packed(content)) for _, content in parcels)

    def _post(self, mail: Sequence[tuple[SentMessage, Message]]) -> None:
        """Send messages: with their content inside to the nodes that are known to understand that."""
        for inline in (True, False):
            chosen = [(sent, message) for sent, message in mail if self._is_inline(sent.node) == inline]
            push = partial(push_inline, self._grid) if inline else self._grid.push_messages
            if chosen:
                self._remember(push([message for _, message in chosen]), [sent for sent, _ in chosen])

    def _is_inline(self, node: Node) -> bool:
        return node in self._described and self._described[node].inline

    def _remember(self, message_ids: Iterable[str], sent: list[SentMessage]) -> None:
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
        self._answered[message_id] = replace(sent, change_of=None)  # which may be large
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        return self._reply(message, sent)

    def _reply(self, message: Message, sent: SentMessage) -> Reply | None:
        if message.has_error():
            return Reply(sent, None, message.error.reason or "error without a reason", "failed", message, 0)
        try:
            content = _packed(message.content)
            if name_in(content) == VersionMissing.__name__:
                return self._sent_whole(sent, VersionMissing.unpack(content), message)
            answer = _unpack(content, message.metadata.message_type)
            owner = self._owner(sent.node) if isinstance(answer, Description) else None
        except (ProtocolError, RosterError) as error:
            return Reply(sent, None, f"{type(error).__name__}: {error}", "protocol", message, 0)
        if isinstance(answer, Description):
            self._described[sent.node] = answer
            self._held[sent.node] = answer.held
        elif sent.kept:
            self._held[sent.node] = sent.kept
        return Reply(sent, answer, "", "", message, len(content), owner)

    def _owner(self, node: Node) -> str | None:
        """The client that a node's key was registered for; a node without such a key is on this machine."""
        key = public_keys(self._grid).get(node) if self._roster is not None else None
        return self._roster.owner(key) if self._roster is not None and key else None

    def _sent_whole(self, sent: SentMessage, missing: VersionMissing, message: Message) -> Reply | None:
        """Give the task once more, as the whole version, to a client that could not use the change."""
        self._held.pop(sent.node, None)
        if sent.change_of is None:
            return Reply(sent, None, f"it misses what it was sent: {missing.reason}", "protocol", message, 0)
        log.warning("sending the whole version client=%s reason=%s", missing.client, missing.reason)
        self._push([(replace(sent, change_of=None), _content(sent.change_of))])
        return None


def _unpack(content: bytes, kind: str) -> Description | Update | Evaluation:
    match kind:
        case MessageType.QUERY:
            return Description.unpack(content)
        case MessageType.TRAIN:
            return Update.unpack(content)
        case _:
            return Evaluation.unpack(content)


def _question(ask: AskDescription) -> Message:
    return Message(_content(Describe(ask.refused)), ask.node, MessageType.QUERY, ttl=ASK_TTL_S)


def _order(sent: SentMessage, content: RecordDict) -> Message:
    kind = MessageType.TRAIN if sent.kind == "train" else MessageType.EVALUATE
    return Message(content, sent.node, kind, ttl=sent.ttl_s, group_id=str(sent.version))


def _content(message: Describe | Task | VersionChange) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({CONTENT: message.pack()})})


def _packed(content: RecordDict) -> bytes:
    record = content.get(RECORD)
    packed = record.get(CONTENT) if isinstance(record, ConfigRecord) else None
    if not isinstance(packed, bytes):
        raise ProtocolError(f"a message without '{RECORD}/{CONTENT}': not from flockwatch")
    return packed
