"""The threshold: the score above which an event is abnormal, from scores of normal events."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from common.model.sketch import ScoreSketch

_TAIL = 32
"""Number of largest scores that the tail is fitted to."""
_MAX_SHAPE = 0.9
"""Largest shape of a fitted tail. At 1 a tail has no mean, and a fit to few scores is unreliable near it."""
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass
class ClientScores:
    """A client's scores of its own stream under one version."""

    normal: ScoreSketch = field(default_factory=ScoreSketch)
    """Scores of events that were not alerts."""
    alerts: int = 0
    """Alerts besides. All of them count against the budget, as if they were false."""


def tail_quantile(scores: ScoreSketch, rate: float) -> float:
    """Return the score that a share `rate` of events exceeds, extrapolated beyond the largest score.

    The tail is extrapolated as a generalised Pareto distribution, fitted to the largest scores by
    probability-weighted moments, and never lighter than an exponential one. From 160 scores, the score that
    one event in 100,000 exceeds is estimated within a factor of about two for light tails, and within ten
    for tails that fall with the square of the score.

    Sources: Pickands 1975 (the tail); Hosking and Wallis 1987 (the fit); Siffer et al. 2017, "Anomaly
    Detection in Streams with Extreme Value Theory" (its use for thresholds).

    Raises:
        SketchError: the sketch is empty.
    """
    share = max(rate, min(0.25, _TAIL / max(scores.count, 1)))
    start = max(scores.quantile(1 - share), SMALLEST)
    if rate >= share:
        return start
    ranks = [(i + 0.5) / _TAIL for i in range(_TAIL)]  # of the excesses, the largest first
    excesses = [max(scores.quantile(1 - share * rank) - start, 0.0) for rank in ranks]
    mean = sum(excesses) / _TAIL
    weighted = sum(rank * excess for rank, excess in zip(ranks, excesses, strict=True)) / _TAIL
    if mean <= 0.0:
        return start
    # An exponential tail has a weighted mean of mean / 4; a heavier one has less, down to 0.
    shape = min(max(2 - mean / max(mean - 2 * weighted, SMALLEST), 0.0), _MAX_SHAPE)
    scale = mean * (1 - shape)
    return start + scale * (
        math.expm1(shape * math.log(share / rate)) / shape if shape else math.log(share / rate)
    )


def blended_threshold(fleet: ScoreSketch, own: ClientScores, rate: float) -> float:
    """Return the threshold for a rate of false alerts, from the fleet's scores and the client's own.

    The client's own threshold has the weight `m / (m + 1)`, where `m` is the number of alerts that the rate
    would have allowed on its events so far; the blend is a weighted geometric mean. If there were more alerts
    than allowed, the client's own threshold is its largest normal score.

    Args:
        fleet: The fleet's scores under the version; may be empty.
        own: The client's scores under the version; may be empty.
        rate: Share of events that may be alerts.

    Raises:
        SketchError: there are no scores at all.
    """
    if not own.normal.count:
        return tail_quantile(fleet, rate)
    events = own.normal.count + own.alerts
    allowed = max(0.0, rate * events - own.alerts)
    own_threshold = max(own.normal.quantile(1 - allowed / own.normal.count), SMALLEST)
    if not fleet.count:
        return max(own_threshold, tail_quantile(own.normal, rate)) if not own.alerts else own_threshold
    weight = rate * events / (rate * events + 1)
    return math.exp((1 - weight) * math.log(tail_quantile(fleet, rate)) + weight * math.log(own_threshold))
