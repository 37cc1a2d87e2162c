"""What scores and alerts are worth against labels: one client's figures, with no point adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.vus import runs, vus_pr

DAY_S = 86400.0

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """How well scores rank the anomalies of one client's test events, whatever the threshold."""

    auroc: float
    average_precision: float
    vus_pr: float
    """See `flockwatch.quality.vus`."""
    best_f1: float
    """At the best threshold there is, which only labels can tell: a bound, and no detector's own figure."""

    @classmethod
    def of(cls, labels: Labels, scores: NDArray[np.floating]) -> Ranking | None:
        """Of scores of shape (n,), all finite; None where the labels are all of one kind."""
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
class Alarms:
    """What the alerts of one client's test events are worth. None: there is nothing to measure it on."""

    f1: float | None
    """Of events, each alone."""
    false_alerts_per_day: float | None
    """Incidents without a labelled event from start to end, in a day of normal events."""
    event_recall: float | None
    """Share of the anomalies, each a run of labelled events, in which at least one event is an alert."""
    delay_s: float | None
    """From the start of an anomaly to its first alert, mean over those that have one."""

    @classmethod
    def of(
        cls, labels: Labels, flagged: Labels, incidents: Sequence[slice] | None, interval_s: float
    ) -> Alarms:
        """Of test events.

        Args:
            labels: Shape (n,): whether each event is an anomaly.
            flagged: Shape (n,): whether each event is an alert.
            incidents: The events of each notice an operator gets; None: alerts are not grouped.
            interval_s: From one event to the next.
        """
        anomalies = runs(labels)
        delays = [int(flagged[span].argmax()) for span in anomalies if flagged[span].any()]
        normal_days = int((~labels).sum()) * interval_s / DAY_S
        false = None if incidents is None else sum(not labels[span].any() for span in incidents)
        hits = int((flagged & labels).sum())
        return cls(
            f1=2 * hits / int(flagged.sum() + labels.sum()) if labels.any() else None,
            false_alerts_per_day=false / normal_days if false is not None and normal_days else None,
            event_recall=len(delays) / len(anomalies) if anomalies else None,
            delay_s=float(np.mean(delays)) * interval_s if delays else None,
        )


FIGURES = (*(f.name for f in fields(Ranking)), *(f.name for f in fields(Alarms)))
"""Names of all figures of a client, in the order of tables."""


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are there; None if none is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def spread(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation of those that are there; None of fewer than two."""
    present = [value for value in values if value is not None]
    return float(np.std(present, ddof=1)) if len(present) > 1 else None
