"""What is known of each client from what it sent: counts, errors, and how far it lies from the others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common.model.residuals import Residuals
from common.model.sketch import ScoreSketch
from common.model.weights import Weights, norm
from common.protocol.messages import Evaluation, Update
from common.protocol.traffic import Traffic

TURN = 0.3
"""Weight of the newest fold in the fleet's direction, and of a client's newest update in its cosine."""

SUMMED = ("sent_bytes", "received_bytes", "encode_s", "decode_s")
"""What of a client's traffic is added up over all its processes."""

MAX_CLIENTS = 10_000
"""Names that are remembered: the ones that were heard of last."""


@dataclass(frozen=True)
class ClientRecord:
    """One client's record. It outlives connections and restarts of the server."""

    version: int | None = None
    """The version that its newest update started from."""
    staleness: int | None = None
    """By how many versions its newest folded update was behind."""
    rows: int | None = None
    error: float | None = None
    """Its newest reconstruction error, of `version`."""
    norm: float | None = None
    """Of its newest update, admitted or not."""
    cosine: float | None = None
    """Of its updates with the fleet's direction, smoothed: -1 to 1. An attacker's stays below the others'."""
    distance: float | None = None
    """Of its newest scores from the fleet's (Kolmogorov and Smirnov): 0 to 1. A broken sensor's is large."""
    admitted: int = 0
    clipped: int = 0
    dropped: int = 0
    """Admitted, but too stale, or of a round that failed."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    drifted: bool = False
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Totals since the client's process began, as it last said them (`common.protocol.traffic`)."""
    sent_bytes: int = 0
    """HTTP on its sockets, over all its processes."""
    received_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    heard: float = 0.0
    """When its newest answer came, in seconds since 1970."""


class ClientRecords:
    """The records of all clients, by name.

    >>> fleet = ClientRecords({"a": {"admitted": 3}})
    >>> fleet.refused("a", "not finite")
    >>> fleet.records["a"].admitted, dict(fleet.records["a"].refused)
    (3, {'not finite': 1})
    """

    def __init__(self, saved: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        known = {f.name for f in dataclasses.fields(ClientRecord)}
        self.records = {
            name: ClientRecord(**{key: value for key, value in values.items() if key in known})
            for name, values in (saved or {}).items()
        }
        self._scores: dict[str, ScoreSketch] = {}
        self._residuals: dict[str, Residuals] = {}
        self._unmeasured: set[str] = set()
        self._scored: dict[str, int] = {}
        self._direction: Weights | None = None

    def heard(self, answer: Evaluation) -> Traffic:
        """Take note of an answer that passed the gate's first half, whether or not it will be used.

        Returns:
            The client's traffic since its answer before.
        """
        record = self._record(answer.client)
        traffic = answer.traffic.since(Traffic(**record.traffic))  # type: ignore[arg-type]
        changes: dict[str, Any] = {
            "version": answer.version, "rows": answer.rows, "error": answer.error.mean,
            "drifted": answer.drifted, "heard": time.time(), "traffic": dataclasses.asdict(answer.traffic),
            **{name: getattr(record, name) + getattr(traffic, name) for name in SUMMED},
        }  # fmt: skip
        if isinstance(answer, Update):
            changes["norm"] = norm(answer.difference)
        if answer.scores.count or answer.client not in self._scores:
            self._scores[answer.client] = answer.scores
            self._residuals[answer.client] = answer.residuals
            self._scored[answer.client] = answer.version
            self._unmeasured.add(answer.client)
        self._change(answer.client, **changes)
        return traffic

    def refused(self, client: str, kind: str) -> None:
        """Count an answer that was not admitted."""
        counts = self._record(client).refused
        self._change(client, refused={**counts, kind: counts.get(kind, 0) + 1}, heard=time.time())

    def dropped(self, client: str) -> None:
        """Count an update that was admitted and is not used."""
        self._change(client, dropped=self._record(client).dropped + 1)

    def folded(self, updates: Iterable[tuple[Update, int, bool]]) -> None:
        """Take note of the updates of a fold: each with its staleness, and whether it was clipped."""
        updates = list(updates)
        units = {u.client: _unit(u.difference) for u, _, _ in updates}
        for update, staleness, clipped in updates:
            record = self._record(update.client)
            others = [unit for client, unit in units.items() if client != update.client]
            known = self._direction or _mean(others)
            cosine = _cosine(units[update.client], known) if known else None
            if cosine is not None and record.cosine is not None:
                cosine = record.cosine + TURN * (cosine - record.cosine)
            self._change(
                update.client, staleness=staleness, admitted=record.admitted + 1,
                clipped=record.clipped + clipped, cosine=record.cosine if cosine is None else cosine,
            )  # fmt: skip
        newest = _mean(list(units.values()))
        if newest is not None:
            before = self._direction or newest
            self._direction = {n: (1 - TURN) * before[n] + TURN * newest[n] for n in newest}

    def norms(self) -> dict[str, float]:
        """The newest norm of each client."""
        return {name: r.norm for name, r in self.records.items() if r.norm is not None}

    def speeds(self, clients: Collection[str]) -> dict[str, float]:
        """Bytes a second of these clients' links, where large enough messages have told."""
        told = {n: Traffic(**r.traffic) for n, r in self.records.items() if n in clients}  # type: ignore[arg-type]
        return {name: t.timed_bytes / t.timed_s for name, t in told.items() if t.timed_s > 0}

    def error(self, clients: Collection[str]) -> float | None:
        """The newest errors of these clients, weighted by rows."""
        known = [r for n, r in self.records.items() if n in clients and r.error is not None and r.rows]
        rows = sum(r.rows or 0 for r in known)
        return sum((r.error or 0.0) * (r.rows or 0) for r in known) / rows if rows else None

    def scored(self, client: str) -> int | None:
        """The version that a client's newest scores are of."""
        return self._scored.get(client)

    def scores(self, clients: Collection[str], before: ScoreSketch) -> ScoreSketch:
        """The newest scores of these clients together.

        After a restart, while clients that are known from before have not sent theirs, those of the last
        version stand in for them.
        """
        parts = [self._scores[name] for name in sorted(clients) if name in self._scores]
        return ScoreSketch.merge_all([*parts, before] if self._awaited(clients) else parts)

    def residuals(self, clients: Collection[str], before: Residuals) -> Residuals:
        """The newest residuals of these clients together, as `scores`."""
        parts = [self._residuals[name] for name in sorted(clients) if name in self._residuals]
        return Residuals.merge_all([*parts, before] if self._awaited(clients) else parts)

    def measure(self, clients: Collection[str]) -> None:
        """Bring the distance from the fleet up to date, of each client that was heard since the last time."""
        parts = {name: s for name, s in self._scores.items() if name in clients and s.count}
        whole = ScoreSketch.merge_all(parts.values())
        for name in self._unmeasured & parts.keys():
            self._change(name, distance=parts[name].distance(whole))
        self._unmeasured.clear()

    def saved(self) -> dict[str, dict[str, Any]]:
        """The records as JSON values."""
        return {
            name: {**vars(r), "refused": dict(r.refused), "traffic": dict(r.traffic)}
            for name, r in self.records.items()
        }

    def _awaited(self, clients: Collection[str]) -> bool:
        return any(name not in self._scores and self._record(name).admitted for name in clients)

    def _record(self, client: str) -> ClientRecord:
        return self.records.get(client, ClientRecord())

    def _change(self, client: str, **changes: Any) -> None:
        self.records[client] = replace(self._record(client), **changes)
        if len(self.records) > MAX_CLIENTS:
            oldest = min(self.records, key=lambda name: self.records[name].heard)
            self.records.pop(oldest)
            self._scores.pop(oldest, None)
            self._residuals.pop(oldest, None)
            self._unmeasured.discard(oldest)
            self._scored.pop(oldest, None)


def _unit(weights: Weights) -> Weights:
    size = norm(weights)
    return {n: array / np.float32(size) for n, array in weights.items()} if size else weights


def _mean(units: list[Weights]) -> Weights | None:
    return {n: np.mean([unit[n] for unit in units], axis=0) for n in units[0]} if units else None


def _cosine(unit: Weights, other: Weights) -> float | None:
    size = norm(other) * norm(unit)
    return sum(float(np.vdot(unit[n], other[n])) for n in unit) / size if size else None
