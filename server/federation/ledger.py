"""Admitted answers until they are folded: what each carries, and what the gate leaves of its norm."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from common.model.weights import norm
from common.protocol.messages import Evaluation, Update
from common.protocol.traffic import Traffic
from common.settings import GateSettings
from server.coordination.state import Node, UpdateShare
from server.federation.admission import largest_norm
from server.federation.aggregation import WeightedUpdate
from server.federation.client_records import ClientRecords
from server.federation.exchange import Reply, SentMessage
from server.storage.history import ReplyRow


@dataclass(frozen=True, eq=False)
class LedgerEntry:
    """An admitted answer."""

    number: int
    node: Node
    answer: Update | Evaluation
    reply: Reply
    staleness: int = 0
    factor: float = 1.0
    """By which its difference is scaled in the fold."""
    clipped: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    """The client's, since its answer before this one."""

    @property
    def update(self) -> Update:
        """The answer of a training task."""
        assert isinstance(self.answer, Update)  # noqa: S101  only updates are held and folded
        return self.answer

    @property
    def part(self) -> WeightedUpdate:
        """The update as the arithmetic takes it."""
        return WeightedUpdate(self.update, self.factor, self.reply.message)

    @property
    def bytes_up(self) -> int:
        """Bytes of the reply's content."""
        return self.reply.bytes_up


class Ledger:
    """The answers that are held, by the number of their task.

    Args:
        fleet: Takes note of each answer.
        gate: What norm is too large, and what is done then.
    """

    def __init__(self, fleet: ClientRecords, gate: GateSettings) -> None:
        self._fleet = fleet
        self._gate = gate
        self._updates: dict[int, LedgerEntry] = {}
        self._measured: dict[Node, LedgerEntry] = {}

    def enter(self, sent: SentMessage, answer: Update | Evaluation, reply: Reply) -> None:
        """Keep an admitted answer."""
        traffic = self._fleet.heard(answer)
        entry = LedgerEntry(sent.number, sent.node, answer, reply, traffic=traffic)
        if isinstance(answer, Update):
            self._updates[sent.number] = entry
        else:
            self._measured[sent.node] = entry

    def taken(self, shares: Sequence[UpdateShare]) -> tuple[list[LedgerEntry], list[tuple[LedgerEntry, str]]]:
        """The entries of a fold, by name so that sums are repeatable, and those whose norm is refused."""
        bound = None
        if self._gate.norm_limit is not None:
            bound = largest_norm(self._fleet.norms().values(), self._gate.norm_limit)
        taken: list[LedgerEntry] = []
        refused: list[tuple[LedgerEntry, str]] = []
        for share in shares:
            entry = replace(self._updates.pop(share.number), staleness=share.staleness, factor=share.discount)
            size = norm(entry.update.difference)
            if bound is None or size <= bound:
                taken.append(entry)
            elif self._gate.norm_action == "clip":
                taken.append(replace(entry, factor=share.discount * bound / size, clipped=True))
            else:
                reason = f"not admitted: its norm is {size:.3g}, the fleet's allow {bound:.3g}"
                refused.append((entry, reason))
        return sorted(taken, key=lambda e: (e.answer.client, e.number)), refused

    def waiting(self, client: str) -> tuple[int, ...]:
        """Serial numbers of the client's updates that wait to be folded."""
        held = (entry.update for entry in self._updates.values() if entry.answer.client == client)
        return tuple(sorted(update.serial for update in held if update.serial))

    def drop(self, number: int) -> LedgerEntry | None:
        """Let go of an update that is not used."""
        return self._updates.pop(number, None)

    def keep_only(self, numbers: Collection[int]) -> None:
        """Let go of everything that the coordinator does not hold: answers that nobody asked for."""
        if len(self._updates) > len(numbers):
            self._updates = {n: entry for n, entry in self._updates.items() if n in numbers}

    def measured(self) -> list[LedgerEntry]:
        """The answers of the measurement that was sent last, by name."""
        return sorted(self._measured.values(), key=lambda entry: entry.answer.client)

    def forget_measured(self) -> None:
        """A new measurement begins."""
        self._measured.clear()


def weighted_error(entries: Sequence[LedgerEntry]) -> float:
    """Mean reconstruction error, weighted by rows."""
    rows = sum(entry.answer.rows for entry in entries)
    return sum(entry.answer.error.mean * entry.answer.rows for entry in entries) / rows


def reply_row(entry: LedgerEntry) -> ReplyRow:
    """The answer as history records it."""
    answer = entry.answer
    return ReplyRow(
        client=answer.client,
        version=answer.version,
        rows=answer.rows,
        error=answer.error,
        bytes_up=entry.bytes_up,
        codec=entry.reply.codec,
        traffic=entry.traffic,
        loss=answer.loss if isinstance(answer, Update) else None,
        train_s=answer.train_s if isinstance(answer, Update) else None,
    )
