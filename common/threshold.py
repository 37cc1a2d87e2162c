"""From scores of normal rows to the score above which an event is an anomaly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.settings import ThresholdSettings
from common.sketch import ScoreSketch

_TAIL = 32
"""Largest scores that tell how the tail goes on beyond them."""
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass
class Evidence:
    """What a client's own stream says of its scores under one version."""

    normal: ScoreSketch = field(default_factory=ScoreSketch)
    """Scores of events that were not alerts."""
    alerts: int = 0
    """Alerts among as many events more: they count against the budget as if all were false."""


def threshold(settings: ThresholdSettings, normal_scores: NDArray[np.floating]) -> float:
    """The fixed value of the settings, or their quantile of `normal_scores` of shape (n,), n >= 1.

    >>> threshold(ThresholdSettings(quantile=0.5), np.array([1.0, 2.0, 3.0]))
    2.0
    """
    if settings.value is not None:
        return settings.value
    return float(np.quantile(normal_scores, settings.quantile))


def exceeded(scores: ScoreSketch, rate: float) -> float:
    """The score that this share of events exceeds, also where it lies beyond all scores that were seen.

    Beyond them the tail is taken to fall as a power, with the exponent of the largest scores: from a fleet's
    first hundred scores it gives a threshold that is rather too high than too low.

    Source: Weissman 1978, "Estimation of Parameters and Large Quantiles Based on the k Largest
    Observations", with Hill's 1975 estimate of the exponent.

    Raises:
        SketchError: the sketch is empty.
    """
    share = max(rate, min(0.25, _TAIL / max(scores.count, 1)))
    start = max(scores.quantile(1 - share), SMALLEST)
    if rate >= share:
        return start
    larger = (scores.quantile(1 - share * (i + 0.5) / _TAIL) for i in range(_TAIL))
    exponent = sum(math.log(max(score, start) / start) for score in larger) / _TAIL
    return start * math.pow(share / rate, exponent)


def blended(fleet: ScoreSketch, own: Evidence, rate: float) -> float:
    """The threshold for a rate of false alerts: the fleet's at first, more and more the client's own.

    The own part weighs `m / (m + 1)`, m being how many alerts its evidence would have allowed; both are mixed
    as logarithms. Alerts beyond the allowance raise the own part to its largest normal score.

    Raises:
        SketchError: there is no score at all.
    """
    if not own.normal.count:
        return exceeded(fleet, rate)
    events = own.normal.count + own.alerts
    allowed = max(0.0, rate * events - own.alerts)
    ours = max(own.normal.quantile(1 - allowed / own.normal.count), SMALLEST)
    if not fleet.count:
        return max(ours, exceeded(own.normal, rate)) if not own.alerts else ours
    weight = rate * events / (rate * events + 1)
    return math.exp((1 - weight) * math.log(exceeded(fleet, rate)) + weight * math.log(ours))
