"""Messages and their replies: as they are sent, received, and kept until they are aggregated or recorded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from flwr.app import Message

from common.compression.choice import NONE
from common.protocol.messages import Description, Evaluation, Task, Traffic, Update
from server.coordination.actions import UpdateShare
from server.coordination.state import Kind, NodeId
from server.storage.database import ReplyRow
from server.versions.aggregation import WeightedUpdate
from server.versions.influence import MIN_CLIENTS, largest_mass

DUPLICATE = "duplicate"
"""The kind of error of a second reply to one message."""

UNREADABLE = "protocol"
"""The kind of error of a reply that cannot be read: a fault of the client that sent it."""

MAX_REASON = 300
"""Longest description of an error, in characters."""


def error_text(error: BaseException) -> str:
    """Return an exception in one line of at most `MAX_REASON` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


@dataclass(frozen=True, eq=False)
class OutgoingTask:
    """A task and the client that it goes to."""

    node: NodeId
    number: int
    kind: Kind
    task: Task
    description: Description
    """The client's."""


@dataclass(frozen=True)
class SentMessage:
    """A message that has no reply yet."""

    node: NodeId
    number: int
    """Number of the description request or the task."""
    kind: Kind | None
    """The work that the client does with the version; None for a description request."""
    inline: bool = False
    """Whether the content is inside the message, instead of in objects that the client fetches."""
    version: int = 0
    """The task's."""
    kept_hash: str = ""
    """Hash of the version, if the client is to keep it."""
    ttl_s: float = 0.0
    """Seconds for which a task stays valid."""
    whole_task: Task | None = None
    """The whole task, where it was sent as a change: for a client that cannot apply the change."""


@dataclass(frozen=True)
class Reply:
    """A reply, with the message that it answers."""

    sent: SentMessage
    answer: Description | Update | Evaluation | None
    """None if the reply is an error."""
    error: str
    """Empty if there is an answer."""
    error_kind: str
    """One word under which the error is counted: failed, protocol, roster or duplicate; empty without one."""
    message: Message
    bytes_up: int
    """Size of the content; 0 for an error."""
    owner: str | None = None
    """For a description: the client that the node's key is registered for, where keys are checked."""

    @classmethod
    def of_error(cls, sent: SentMessage, error: str, kind: str, message: Message) -> Self:
        """Return a reply without an answer.

        Args:
            sent: The message that it answers.
            error: What is wrong.
            kind: One word under which the error is counted.
            message: The reply as Flower carries it.
        """
        return cls(sent, None, error, kind, message, 0)

    @property
    def codec(self) -> str | None:
        """The codec of the update; None for plain arrays and for other answers."""
        block = self.answer.block if isinstance(self.answer, Update) else None
        return block.codec if block is not None and block.codec != NONE else None


@dataclass(frozen=True, eq=False)
class AdmittedReply:
    """An update or evaluation that passed admission, decoded."""

    answer: Update | Evaluation
    reply: Reply
    """The reply as it was received."""
    traffic: Traffic = field(default_factory=Traffic)
    """The client's traffic since its previous reply."""
    staleness: int = 0
    """Versions that were made since the one that the update starts from; set when it is aggregated."""
    factor: float = 1.0
    """Scales the update's difference in the aggregation."""
    clipped: bool = False
    """Whether the norm gate reduced the factor."""

    @property
    def number(self) -> int:
        """The number of the task."""
        return self.reply.sent.number

    @property
    def node(self) -> NodeId:
        """The node that replied."""
        return self.reply.sent.node

    @property
    def client(self) -> str:
        """The client's name."""
        return self.answer.client

    @property
    def update(self) -> Update:
        """The answer to a training task."""
        assert isinstance(self.answer, Update)  # noqa: S101  only updates are aggregated
        return self.answer

    def weighted(self, largest_rows: float) -> WeightedUpdate:
        """Return the update for the aggregation, weighted by at most this number of rows."""
        rows = self.answer.rows if self.answer.rows <= largest_rows else round(largest_rows)
        return WeightedUpdate(self.update, self.factor, self.reply.message, rows)

    @property
    def row(self) -> ReplyRow:
        """The reply as the history records it."""
        update = self.answer if isinstance(self.answer, Update) else None
        return ReplyRow(
            client=self.answer.client,
            version=self.answer.version,
            rows=self.answer.rows,
            error=self.answer.error,
            bytes_up=self.reply.bytes_up,
            codec=self.reply.codec,
            traffic=self.traffic,
            loss=update.loss if update is not None else None,
            train_s=update.train_s if update is not None else None,
        )


class AdmittedReplies:
    """The updates that wait for aggregation, by task number, and the replies to the newest evaluation."""

    def __init__(self) -> None:
        self._updates: dict[int, AdmittedReply] = {}
        self._evaluations: dict[NodeId, AdmittedReply] = {}

    def add(self, reply: AdmittedReply) -> None:
        """Store a reply."""
        if isinstance(reply.answer, Update):
            self._updates[reply.number] = reply
        else:
            self._evaluations[reply.node] = reply

    def take(self, shares: Sequence[UpdateShare]) -> list[AdmittedReply]:
        """Remove and return the updates of an aggregation, in the order of the shares."""
        return [
            replace(self._updates.pop(share.number), staleness=share.staleness, factor=share.discount)
            for share in shares
        ]

    def waiting(self, client: str) -> tuple[int, ...]:
        """Return the serial numbers of the client's updates that wait for aggregation."""
        updates = (reply.update for reply in self._updates.values() if reply.client == client)
        return tuple(sorted(update.serial for update in updates if update.serial))

    def drop(self, number: int) -> AdmittedReply | None:
        """Remove and return an update that is not used; None if there is none of this task."""
        return self._updates.pop(number, None)

    def keep_only(self, numbers: Collection[int]) -> None:
        """Keep the updates of these tasks only: nothing waits for those of other tasks any more."""
        if len(self._updates) > len(numbers):
            self._updates = {n: reply for n, reply in self._updates.items() if n in numbers}

    def evaluations(self) -> list[AdmittedReply]:
        """Return the replies to the newest evaluation, by client name."""
        return sorted(self._evaluations.values(), key=lambda reply: reply.client)

    def clear_evaluations(self) -> None:
        """Remove the replies to an earlier evaluation."""
        self._evaluations.clear()


def weighted_error(replies: Sequence[AdmittedReply]) -> float:
    """Return the mean reconstruction error, weighted by rows with bounded influence of each client."""
    mass = largest_mass([reply.answer.rows for reply in replies])
    rows = [min(reply.answer.rows, mass) for reply in replies]
    return sum(reply.answer.error.mean * n for reply, n in zip(replies, rows, strict=True)) / sum(rows)


def typical_error(replies: Sequence[AdmittedReply]) -> float:
    """Return the error that the stop rule judges by: the median client's; of few clients the mean."""
    if len(replies) < MIN_CLIENTS:
        return weighted_error(replies)
    return float(np.median([reply.answer.error.mean for reply in replies]))
