"""Detection metrics of one client's scores and alerts, given its labels; without point adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.vus import runs, vus_pr

DAY_S = 86400.0

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
        """Return the metrics of finite scores, shape (n,); None if the labels are all of one kind."""
        from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

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
    """Metrics of alerts and incidents. None where the labels do not define a metric."""

    f1: float | None
    """F1 of single events."""
    false_alerts_per_day: float | None
    """Incidents without a labelled event, per day of normal events."""
    event_recall: float | None
    """Share of the anomalies, each a run of labelled events, that contain an alert."""
    delay_s: float | None
    """Time from the start of an anomaly to its first alert, averaged over the anomalies with one."""

    @classmethod
    def of(
        cls, labels: Labels, alerts: Labels, incidents: Sequence[slice] | None, interval_s: float
    ) -> AlertMetrics:
        """Return the metrics of a client's test events.

        Args:
            labels: Whether each event is an anomaly, shape (n,).
            alerts: Whether each event is an alert, shape (n,).
            incidents: The events of each incident; None if alerts were not grouped into incidents.
            interval_s: Time between two events.
        """
        anomalies = runs(labels)
        delays = [int(alerts[span].argmax()) for span in anomalies if alerts[span].any()]
        normal_days = int((~labels).sum()) * interval_s / DAY_S
        false_alerts = None if incidents is None else sum(not labels[span].any() for span in incidents)
        hits = int((alerts & labels).sum())
        return cls(
            f1=2 * hits / int(alerts.sum() + labels.sum()) if labels.any() else None,
            false_alerts_per_day=false_alerts / normal_days
            if false_alerts is not None and normal_days
            else None,
            event_recall=len(delays) / len(anomalies) if anomalies else None,
            delay_s=float(np.mean(delays)) * interval_s if delays else None,
        )


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
