"""Exchanges messages with clients over a Flower Grid: sends, polls, and matches each reply to its message."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.model.manifest import Manifest
from common.protocol.messages import (
    Describe,
    Description,
    Evaluation,
    Task,
    TaskOptions,
    Update,
    VersionChange,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import CONTENT, RECORD, ProtocolError, pack, unpack
from server.access.roster import Roster, RosterError
from server.coordination.actions import RequestDescription
from server.coordination.state import Kind, NodeId
from server.federation.compression import VersionChain, VersionStep
from server.federation.replies import (
    DUPLICATE,
    MAX_REASON,
    UNREADABLE,
    OutgoingTask,
    Reply,
    SentMessage,
    error_text,
)
from server.flower.grid import is_unreadable, last_heartbeats, public_keys, pull_replies, push_inline
from server.flower.heartbeats import HeartbeatMonitor

log = logging.getLogger(__name__)

REQUEST_TTL_S = 30.0
"""Time in which a description request stays valid."""

MAX_ANSWERED = 4096
"""Answered messages that are remembered, so that a second reply is recognised."""


class MessageExchange:
    """Exchanges messages with the clients of one run.

    Args:
        grid: Flower's connection to them.
        chain: The steps between versions, for clients that hold an earlier one.
        roster: The registered clients; None where keys are not checked.
        window: Events in a window of version 0, which is not made yet; None: not known.
    """

    def __init__(
        self, grid: Grid, chain: VersionChain, roster: Roster | None = None, window: int | None = None
    ) -> None:
        self._grid = grid
        self._chain = chain
        self._roster = roster
        self._window = window
        self._sent: dict[str, SentMessage] = {}
        """Messages that have no reply yet, by the id that Flower gave them."""
        self._answered: OrderedDict[str, SentMessage] = OrderedDict()
        """The newest messages that have one, by id."""
        self._held_hashes: dict[NodeId, str] = {}
        """Known hashes of the versions that clients hold, by node."""
        self._heartbeats = HeartbeatMonitor()
        self._bytes_down = 0
        """Bytes sent since the last `take_bytes_down`."""

    def connected_nodes(self, now: float) -> frozenset[NodeId]:
        """Return the connected nodes that are alive."""
        stamps = last_heartbeats(self._grid)
        self._held_hashes = {n: h for n, h in self._held_hashes.items() if n in stamps}
        return self._heartbeats.alive(stamps, now)

    def request_descriptions(
        self,
        requests: Sequence[RequestDescription],
        inline_nodes: Collection[NodeId],
        newest: Manifest | None = None,
    ) -> None:
        """Send description requests.

        Args:
            requests: One for each client; a refused client is sent the reason.
            inline_nodes: The nodes whose clients accept content inside messages.
            newest: The newest version, for the clients that it is delivered to.
        """
        mail = []
        window = newest.architecture.window if newest is not None else self._window
        delivers = newest is not None and any(request.deliver for request in requests)
        version = _content(WholeVersion.of(Task(newest))) if newest is not None and delivers else None
        for request in requests:
            inline = request.node in inline_nodes
            sent = SentMessage(request.node, request.number, None, inline)
            content = version if version is not None and request.deliver else None
            if content is None:
                content = _content(Describe(request.refused, window))
            else:
                self._bytes_down += len(_packed(content))
            mail.append((sent, Message(content, request.node, MessageType.QUERY, ttl=REQUEST_TTL_S)))
        self._push(mail)

    def send_tasks(self, tasks: Sequence[OutgoingTask], ttl_s: float) -> None:
        """Send tasks. A client that holds an earlier version gets the steps from it, not the whole version.

        Equal content is packed once.

        Args:
            tasks: One for each client.
            ttl_s: Seconds for which the tasks stay valid.
        """
        contents: dict[tuple[int, int, TaskOptions, tuple[int, ...] | None], RecordDict] = {}
        mail = []
        for outgoing in tasks:
            task = outgoing.task
            steps = self._steps(outgoing)
            versions = None if steps is None else tuple(step.version for step in steps)
            key = (task.manifest.version, task.repeats, task.options, versions)
            if key not in contents:
                contents[key] = _content(
                    WholeVersion.of(task)
                    if steps is None
                    else VersionChange.of(task, ((step.version, step.block) for step in steps))
                )
            sent = SentMessage(
                node=outgoing.node,
                number=outgoing.number,
                kind=outgoing.kind,
                inline=outgoing.description.inline,
                version=task.manifest.version,
                kept_hash=task.manifest.hash if task.options.keep else "",
                ttl_s=ttl_s,
                whole_task=None if steps is None else task,
            )
            mail.append((sent, contents[key]))
        self._push_tasks(mail)

    def receive(self) -> list[Reply]:
        """Return the replies since the last call, those to tasks first.

        A client handles its messages in order: when it describes itself, it has answered earlier tasks.
        """
        if not self._sent:
            return []
        matched = [self._matched(message) for message in pull_replies(self._grid, list(self._sent))]
        replies = [reply for reply in matched if reply is not None]
        return sorted(replies, key=lambda reply: isinstance(reply.answer, Description))

    def take_bytes_down(self) -> int:
        """Return the bytes of all tasks and versions that were sent since the last call."""
        bytes_down, self._bytes_down = self._bytes_down, 0
        return bytes_down

    def keep_only(self, numbers: Collection[int]) -> None:
        """Wait for replies to these tasks only, by number. Description requests expire by themselves."""
        self._sent = {i: s for i, s in self._sent.items() if s.kind is None or s.number in numbers}

    def _steps(self, outgoing: OutgoingTask) -> tuple[VersionStep, ...] | None:
        """Return the steps from the version that a client holds to the task's; None if it needs the whole."""
        held = self._held_hashes.get(outgoing.node)
        if not held or not outgoing.task.options.keep:
            return None
        return self._chain.path(held, outgoing.task.manifest, outgoing.description.codecs)

    def _push_tasks(self, mail: Sequence[tuple[SentMessage, RecordDict]]) -> None:
        self._push([(sent, _task_message(sent, content)) for sent, content in mail])
        self._bytes_down += sum(len(_packed(content)) for _, content in mail)

    def _push(self, mail: Sequence[tuple[SentMessage, Message]]) -> None:
        for inline in (True, False):
            batch = [(sent, message) for sent, message in mail if sent.inline == inline]
            push = partial(push_inline, self._grid) if inline else self._grid.push_messages
            if batch:
                self._remember(push([message for _, message in batch]), [sent for sent, _ in batch])

    def _remember(self, message_ids: Iterable[str], batch: Sequence[SentMessage]) -> None:
        for message_id, sent in zip(message_ids, batch, strict=True):
            if message_id:
                self._sent[message_id] = sent

    def _matched(self, message: Message) -> Reply | None:
        """Return a reply with the message that it answers; None if nothing waits for it."""
        message_id = message.metadata.reply_to_message_id
        if (answered := self._answered.get(message_id)) is not None:
            return Reply.of_error(answered, "a second reply to one message", DUPLICATE, message)
        sent = self._sent.pop(message_id, None)
        if sent is None:
            return None
        self._answered[message_id] = replace(sent, whole_task=None)  # which may be large
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        return self._reply(message, sent)

    def _reply(self, message: Message, sent: SentMessage) -> Reply | None:
        """Return a reply, read; whatever is wrong with it is an error of this reply alone."""
        if message.has_error():
            kind = UNREADABLE if is_unreadable(message) else "failed"
            reason = (message.error.reason or "error without a reason")[:MAX_REASON]
            return Reply.of_error(sent, reason, kind, message)
        try:
            content = _packed(message.content)
            answer = _unpack(content, sent.kind)
        except Exception as error:  # what a client sent must not end the federation of all
            return Reply.of_error(sent, error_text(error), UNREADABLE, message)
        if isinstance(answer, VersionMissing):
            return self._send_whole(sent, answer, message)
        owner = None
        if isinstance(answer, Description):
            try:
                owner = self._owner(sent.node)
            except RosterError as error:
                return Reply.of_error(sent, error_text(error), "roster", message)
            self._held_hashes[sent.node] = answer.held
        elif sent.kept_hash:
            self._held_hashes[sent.node] = sent.kept_hash
        return Reply(sent, answer, "", "", message, len(content), owner)

    def _owner(self, node: NodeId) -> str | None:
        """Return the client that a node's key is registered for; None for a node on this machine."""
        key = public_keys(self._grid).get(node) if self._roster is not None else None
        return self._roster.owner(key) if self._roster is not None and key else None

    def _send_whole(self, sent: SentMessage, missing: VersionMissing, message: Message) -> Reply | None:
        """Send the whole task to a client that could not apply a change.

        Returns:
            None, because its reply will follow; an error if it was sent the whole task already.
        """
        self._held_hashes.pop(sent.node, None)
        if sent.whole_task is None:
            error = f"it cannot read a whole version: {missing.reason}"
            return Reply.of_error(sent, error[:MAX_REASON], UNREADABLE, message)
        reason = missing.reason[:MAX_REASON]
        log.warning("sending the whole version client=%r reason=%r", missing.client, reason)
        self._push_tasks([(replace(sent, whole_task=None), _content(WholeVersion.of(sent.whole_task)))])
        return None


def _unpack(content: bytes, kind: Kind | None) -> Description | Update | Evaluation | VersionMissing:
    match kind:
        case None:
            return unpack(content, Description)
        case "train":
            return unpack(content, Update, VersionMissing)
        case "evaluate":
            return unpack(content, Evaluation, VersionMissing)


def _task_message(sent: SentMessage, content: RecordDict) -> Message:
    message_type = MessageType.TRAIN if sent.kind == "train" else MessageType.EVALUATE
    return Message(content, sent.node, message_type, ttl=sent.ttl_s, group_id=str(sent.version))


def _content(message: Describe | WholeVersion | VersionChange) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({CONTENT: pack(message)})})


def _packed(content: RecordDict) -> bytes:
    record = content.get(RECORD)
    packed = record.get(CONTENT) if isinstance(record, ConfigRecord) else None
    if not isinstance(packed, bytes):
        raise ProtocolError(f"a message without '{RECORD}/{CONTENT}': not from flockwatch")
    return packed
