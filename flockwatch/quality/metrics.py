"""Detection metrics of one client's scores and alerts, given its labels; without point adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.vus import runs, vus_pr

DAY_S = 86400.0
HOURS_PER_DAY = 24.0

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class RankingMetrics:
    """Metrics of scores, independent of a threshold."""

    auroc: float
    average_precision: float
    vus_pr: float
    """See `flockwatch.quality.vus`."""
    best_f1: float
    """F1 at the threshold that maximises it: an upper bound, because only labels give this threshold."""

    @classmethod
    def of(cls, labels: Labels, scores: NDArray[np.floating]) -> RankingMetrics | None:
        """Return the metrics of scores, shape (n,); None if the labels are all of one kind.

        Events without a score, NaN, rank with the least.
        """
        from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

        scores = np.where(np.isnan(scores), 0, scores)
        if labels.all() or not labels.any():
            return None
        precision, recall, _ = precision_recall_curve(labels, scores)
        return cls(
            auroc=float(roc_auc_score(labels, scores)),
            average_precision=float(average_precision_score(labels, scores)),
            vus_pr=vus_pr(labels, scores),
            best_f1=float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))),
        )


@dataclass(frozen=True)
class AlertMetrics:
    """Metrics of alerts and incidents. None where the labels do not define a metric.

    A fault is a run of labelled events, and normal events are those without a label. Metrics in days, hours
    and seconds are None where the time between two events is not known.
    """

    f1: float | None
    """F1 of single events."""
    false_notices_per_day: float | None
    """Incidents that begin outside faults, per day of normal events."""
    alarm_hours_per_day: float | None
    """Hours in which an incident is open, per day of normal events: 24 for an incident that never ends."""
    false_notices_per_1000: float | None
    """Incidents that begin outside faults, per 1,000 normal events."""
    alarm_events_per_1000: float | None
    """Normal events during which an incident is open, per 1,000 normal events."""
    faults_found: float | None
    """Share of the faults in which an incident begins."""
    faults_in_open_incident: float | None
    """Share of the faults in which none begins, but one that began before is open: they are not reported."""
    delay_s: float | None
    """Time from the start of a fault to the first incident that begins in it, over the faults found."""

    @classmethod
    def of(
        cls, labels: Labels, alerts: Labels, incidents: Sequence[range], interval_s: float | None
    ) -> AlertMetrics:
        """Return the metrics of a client's test events.

        Args:
            labels: Whether each event is an anomaly, shape (n,).
            alerts: Whether each event is an alert, shape (n,).
            incidents: The events of each incident, from its first to its last. One that began before the
                first event has a negative start.
            interval_s: Time between two events; None if it is not known.
        """
        faults = runs(labels)
        starts = [incident.start for incident in incidents]
        alarm = np.zeros(len(labels), np.bool_)
        for incident in incidents:
            alarm[max(incident.start, 0) : max(incident.stop, 0)] = True
        own = own_starts(faults, incidents)
        covered = sum(bool(alarm[f].any()) for f, start in zip(faults, own, strict=True) if start is None)
        delays = [start - fault.start for fault, start in zip(faults, own, strict=True) if start is not None]
        normal = int((~labels).sum())
        false = sum(start >= 0 and not labels[start] for start in starts)
        in_alarm = int((alarm & ~labels).sum())
        days = normal * interval_s / DAY_S if interval_s is not None and normal else None
        hits = int((alerts & labels).sum())
        return cls(
            f1=2 * hits / int(alerts.sum() + labels.sum()) if labels.any() else None,
            false_notices_per_day=None if days is None else false / days,
            alarm_hours_per_day=None if days is None else HOURS_PER_DAY * in_alarm / normal,
            false_notices_per_1000=1000 * false / normal if normal else None,
            alarm_events_per_1000=1000 * in_alarm / normal if normal else None,
            faults_found=len(delays) / len(faults) if faults else None,
            faults_in_open_incident=covered / len(faults) if faults else None,
            delay_s=float(np.mean(delays)) * interval_s if delays and interval_s is not None else None,
        )


def own_starts(faults: Sequence[slice], incidents: Sequence[range]) -> list[int | None]:
    """Return for each fault the first event in it with which an incident begins; None if none begins in it.

    >>> own_starts([slice(2, 5), slice(8, 9)], [range(4, 9)])
    [4, None]
    """
    starts = sorted(incident.start for incident in incidents)
    return [next((s for s in starts if fault.start <= s < fault.stop), None) for fault in faults]


LOWER_IS_BETTER = {
    "false_notices_per_day", "alarm_hours_per_day", "false_notices_per_1000", "alarm_events_per_1000",
    "faults_in_open_incident", "delay_s",
}  # fmt: skip
"""Metrics of which the largest value is the worst."""
METRICS = (*(f.name for f in fields(RankingMetrics)), *(f.name for f in fields(AlertMetrics)))
"""Names of all metrics of a client, in the order of the tables."""


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def spread(values: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation of the values that are not None; None for fewer than two."""
    present = [value for value in values if value is not None]
    return float(np.std(present, ddof=1)) if len(present) > 1 else None
