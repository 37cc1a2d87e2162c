"""Records of each client: counts, errors, traffic, and its distance from the other clients."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from common.model.histogram import ScoreHistogram
from common.model.residuals import Residuals
from common.model.weights import Weights, norm
from common.protocol.messages import Evaluation, Traffic, Update
from server.versions.covariances import ClientCovariances
from server.versions.influence import MIN_CLIENTS, largest_mass, merged_residuals, merged_scores
from server.versions.leaf_counts import ClientLeafCounts
from server.versions.rescaling import Rescaling

log = logging.getLogger(__name__)

SMOOTHING = 0.3
"""Weight of the newest aggregation in the mean direction, and of the newest update in a client's cosine."""

SUMMED_TRAFFIC = ("sent_bytes", "received_bytes", "encode_s", "decode_s")
"""Fields of a client's traffic that are summed over all its processes."""

MAX_NORMS = 64
"""Norms of earlier updates that are remembered."""

MAX_CLIENTS = 10_000
"""Most records; beyond it, the client whose last reply is oldest is removed."""


@dataclass(frozen=True)
class ClientRecord:
    """One client's record. It outlives connections and restarts of the server."""

    version: int | None = None
    """The version that its newest reply is about."""
    staleness: int | None = None
    """Staleness of its newest aggregated update, in versions."""
    rows: int | None = None
    """Rows that it trains on."""
    error: float | None = None
    """Its newest reconstruction error, of `version`."""
    norm: float | None = None
    """Norm of its newest decoded update, whether or not it was used."""
    cosine: float | None = None
    """Smoothed cosine of its updates with the mean direction, -1 to 1; low for a wrong direction."""
    distance: float | None = None
    """Kolmogorov-Smirnov distance of its scores from all clients', 0 to 1; large for a broken sensor."""
    admitted: int = 0
    """Updates aggregated."""
    clipped: int = 0
    """Aggregated updates whose norm was clipped."""
    dropped: int = 0
    """Admitted updates that were not used: too stale, or of a round that failed."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Replies rejected, by reason."""
    drifted: bool = False
    """Whether its data had drifted at its newest reply."""
    traffic: Mapping[str, int | float] = field(default_factory=dict)
    """Totals of its newest process, as it reported them last (`common.protocol.messages.Traffic`)."""
    sent_bytes: int = 0
    """HTTP bytes sent on its sockets, over all its processes; the fields below likewise."""
    received_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    last_reply_at: float = 0.0
    """Time of its newest reply, in seconds since 1970."""


class ClientRecords:
    """The records of all clients, by name.

    Args:
        saved: The records of an earlier run; unknown fields and damaged records are ignored.

    >>> records = ClientRecords({"a": {"admitted": 3}})
    >>> records.count_rejected("a", "not finite")
    >>> records["a"].admitted, dict(records["a"].refused)
    (3, {'not finite': 1})
    """

    def __init__(self, saved: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.covariances = ClientCovariances()
        """The covariances that clients have sent."""
        self.leaf_counts = ClientLeafCounts()
        """The leaf counts that clients have sent, scaled as in version `_scaled_since` and later ones."""
        self._scaled_since = 0
        self._records: dict[str, ClientRecord] = {}
        for name, values in (saved or {}).items():
            try:
                self._records[name] = msgspec.convert(values, ClientRecord, strict=False)  # 7.0 as 7
            except msgspec.ValidationError as error:
                log.warning("record of a client not read client=%r reason=%s", name, error)
        self._scores: dict[str, ScoreHistogram] = {}
        self._residuals: dict[str, Residuals] = {}
        self._scored_versions: dict[str, int] = {}
        """The version that each client's newest scores and residuals are of."""
        self._changed_scores: set[str] = set()
        """Clients whose scores changed since the distances were updated."""
        self._direction: Weights | None = None
        """Smoothed mean direction of the aggregated updates; None before the first."""
        self._used_norms: deque[float] = deque(maxlen=MAX_NORMS)
        """Norms of the newest aggregated updates that were not clipped."""

    def __getitem__(self, client: str) -> ClientRecord:
        return self._records.get(client, ClientRecord())

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def note_seen(self, clients: Iterable[str]) -> None:
        """Make sure that each of these clients has a record: it has connected and described itself."""
        for client in clients:
            if client not in self._records:
                self._change(client, last_reply_at=time.time())

    def record_reply(self, answer: Evaluation) -> Traffic:
        """Record an admitted answer, whether or not it will be used.

        Returns:
            The client's traffic since its previous answer.
        """
        record = self[answer.client]
        traffic = answer.traffic.since(Traffic(**record.traffic))  # type: ignore[arg-type]
        changes: dict[str, Any] = {
            "version": answer.version, "rows": answer.rows, "error": answer.error.mean,
            "drifted": answer.drifted, "last_reply_at": time.time(),
            "traffic": asdict(answer.traffic),
            **{name: getattr(record, name) + getattr(traffic, name) for name in SUMMED_TRAFFIC},
        }  # fmt: skip
        if isinstance(answer, Update):
            changes["norm"] = norm(answer.difference)
            if answer.covariances is not None:
                self.covariances.record(answer.client, answer.version, answer.rows, answer.covariances)
            if answer.leaf_counts is not None and answer.version >= self._scaled_since:
                self.leaf_counts.record(answer.client, answer.version, answer.rows, answer.leaf_counts)
        if answer.scores.count or answer.client not in self._scores:
            self._scores[answer.client] = answer.scores
            self._residuals[answer.client] = answer.residuals
            self._scored_versions[answer.client] = answer.version
            self._changed_scores.add(answer.client)
        self._change(answer.client, **changes)
        return traffic

    def record_aggregated(self, updates: Iterable[tuple[Update, int, bool]]) -> None:
        """Record the updates of an aggregation, each with its staleness and whether it was clipped."""
        updates = list(updates)
        self._used_norms.extend(norm(update.difference) for update, _, clipped in updates if not clipped)
        units = {update.client: _unit(update.difference) for update, _, _ in updates}
        for update, staleness, clipped in updates:
            record = self[update.client]
            others = [unit for client, unit in units.items() if client != update.client]
            reference = self._direction or _mean(others)
            cosine = _cosine(units[update.client], reference) if reference else None
            if cosine is not None and record.cosine is not None:
                cosine = record.cosine + SMOOTHING * (cosine - record.cosine)
            self._change(
                update.client, staleness=staleness, admitted=record.admitted + 1,
                clipped=record.clipped + clipped, cosine=record.cosine if cosine is None else cosine,
            )  # fmt: skip
        newest = _mean(list(units.values()))
        if newest is not None:
            before = self._direction or newest
            self._direction = {n: (1 - SMOOTHING) * before[n] + SMOOTHING * newest[n] for n in newest}

    def count_rejected(self, client: str, reason: str) -> None:
        """Count a reply that was not admitted.

        Args:
            client: The client's name.
            reason: One or two words.
        """
        counts = self[client].refused
        refused = {**counts, reason: counts.get(reason, 0) + 1}
        self._change(client, refused=refused, last_reply_at=time.time())

    def count_dropped(self, client: str) -> None:
        """Count an update that was admitted and is not used."""
        self._change(client, dropped=self[client].dropped + 1)

    def update_distances(self, clients: Collection[str]) -> None:
        """Update the distance of each of these clients whose scores changed since the last call."""
        parts = {name: s for name, s in self._scores.items() if name in clients and s.count}
        merged = ScoreHistogram.merge_all(parts.values())
        for name in self._changed_scores & parts.keys():
            self._change(name, distance=parts[name].distance(merged))
        self._changed_scores.clear()

    def norms(self, clients: Collection[str]) -> list[float]:
        """Return the norms that an update is compared with: the newest of each of these clients.

        With two clients it is unknown which is unusual: both are also compared with earlier updates, unless
        both are larger than these. A client alone is compared with earlier updates only if there were others.

        Args:
            clients: The clients that take part now. Those that are gone do not decide what is usual.
        """
        everyone = [record.norm for record in self._records.values() if record.norm is not None]
        newest = [record.norm for record in self._of(clients) if record.norm is not None]
        if len(everyone) == 1:
            return []
        if len(newest) >= MIN_CLIENTS:
            return newest
        earlier = list(self._used_norms) or everyone
        if len(newest) > 1 and min(newest) > np.median(earlier):
            return newest
        return [*newest, *earlier]

    def forget_model(self) -> None:
        """Remove what is of a model of other features: scores, residuals, sums, norms, direction."""
        for client in list(self._scores):
            self.forget_scores(client)
        self.covariances.forget_all()
        self.leaf_counts.forget_all()
        self._direction = None
        self._used_norms.clear()
        for client in list(self._records):
            self._change(client, norm=None, cosine=None, distance=None, error=None)

    def rescale(self, change: Rescaling, window: int, version: int) -> None:
        """Bring the clients' residuals and covariances to the scale of the fleet's new moments.

        Counts cannot be brought to another scale: the clients are asked for new ones.

        Args:
            change: How scaled features change.
            window: Events in a window of the model.
            version: The first version with the new moments.
        """
        for client, residuals in self._residuals.items():
            self._residuals[client] = change.of_residuals(residuals, window)
        self.covariances.rescale(change.ratio)
        self.leaf_counts.forget_all()
        self._scaled_since = version

    def forget_scores(self, client: str) -> None:
        """Remove the scores, residuals and sums of a client, with which no version can be read."""
        self._scores.pop(client, None)
        self._residuals.pop(client, None)
        self.covariances.forget(client)
        self.leaf_counts.forget(client)
        self._scored_versions.pop(client, None)
        self._changed_scores.discard(client)

    def link_speeds(self, clients: Collection[str]) -> dict[str, float]:
        """Return the measured speeds of these clients' links, in bytes per second."""
        traffic = {
            name: Traffic(**self[name].traffic)  # type: ignore[arg-type]
            for name in clients
        }
        return {name: t.timed_bytes / t.timed_s for name, t in traffic.items() if t.timed_s > 0}

    def mean_error(self, clients: Collection[str]) -> float | None:
        """Return the mean of these clients' newest errors, weighted by rows; None if none is known."""
        known = [(r.error, r.rows) for r in self._of(clients) if r.error is not None and r.rows]
        mass = largest_mass([rows for _, rows in known]) if known else 0.0
        total = sum(min(rows, mass) for _, rows in known)
        return sum(error * min(rows, mass) for error, rows in known) / total if known else None

    def typical_error(self, clients: Collection[str]) -> float | None:
        """Return the median of these clients' newest errors; of few clients `mean_error`."""
        known = [record.error for record in self._of(clients) if record.error is not None]
        return float(np.median(known)) if len(known) >= MIN_CLIENTS else self.mean_error(clients)

    def largest_rows(self, clients: Collection[str]) -> float:
        """Return the largest weight of one of these clients, in rows; infinite for few clients."""
        rows = [record.rows for record in self._of(clients) if record.rows]
        return largest_mass(rows) if rows else float("inf")

    def has_drifted(self, clients: Collection[str]) -> bool:
        """Return whether the data of at least a quarter of these clients, and of at least two, has drifted.

        With fewer than `MIN_CLIENTS` one is enough.
        """
        records = self._of(clients)
        drifted = sum(record.drifted for record in records)
        return drifted >= (max(2, math.ceil(len(records) / 4)) if len(records) >= MIN_CLIENTS else 1)

    def _of(self, clients: Collection[str]) -> list[ClientRecord]:
        return [self._records[name] for name in sorted(clients) if name in self._records]

    def scored_version(self, client: str) -> int | None:
        """Return the version that the client's newest scores are of; None if it has sent none."""
        return self._scored_versions.get(client)

    def merged_scores(self, clients: Collection[str], earlier: ScoreHistogram) -> ScoreHistogram:
        """Return the newest scores of these clients together, with bounded influence of each.

        Args:
            clients: Names.
            earlier: The newest version's scores. After a restart they stand in for clients that took part
                before and have not sent scores yet.
        """
        parts = {name: self._scores[name] for name in clients if name in self._scores}
        return merged_scores(parts, earlier if self._lacks_scores(clients) else ScoreHistogram.empty())

    def merged_residuals(self, clients: Collection[str], earlier: Residuals) -> Residuals:
        """Return the newest residuals of these clients together; the arguments are as in `merged_scores`."""
        parts = {name: self._residuals[name] for name in clients if name in self._residuals}
        return merged_residuals(parts, earlier if self._lacks_scores(clients) else Residuals())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the records as JSON values."""
        return {
            name: {**vars(r), "refused": dict(r.refused), "traffic": dict(r.traffic)}
            for name, r in self._records.items()
        }

    def _lacks_scores(self, clients: Collection[str]) -> bool:
        return any(name not in self._scores and self[name].admitted for name in clients)

    def _change(self, client: str, **changes: Any) -> None:
        self._records[client] = replace(self[client], **changes)
        if len(self._records) > MAX_CLIENTS:
            oldest = min(self._records, key=lambda name: self._records[name].last_reply_at)
            self._records.pop(oldest)
            self.forget_scores(oldest)


def _unit(weights: Weights) -> Weights:
    size = norm(weights)
    return {n: array / np.float32(size) for n, array in weights.items()} if size else weights


def _mean(units: list[Weights]) -> Weights | None:
    return {n: np.mean([unit[n] for unit in units], axis=0) for n in units[0]} if units else None


def _cosine(unit: Weights, other: Weights) -> float | None:
    size = norm(other) * norm(unit)
    return sum(float(np.vdot(unit[n], other[n])) for n in unit) / size if size else None
