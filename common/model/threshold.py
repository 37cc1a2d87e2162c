"""From scores of normal rows to the score above which an event is an anomaly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.model.sketch import ScoreSketch
from common.settings import ThresholdSettings

_TAIL = 32
"""Largest scores that tell how the tail goes on beyond them."""
_HEAVIEST = 0.9
"""Shape of a tail beyond which it has hardly a mean, and a fit to few scores no meaning."""
SMALLEST = float(np.finfo(np.float32).tiny)


class Distribution(Protocol):
    """Scores, as far as a threshold needs to know them."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def quantile(self, rank: float) -> float:
        """The score below which about this share of them lies."""
        ...


class Sample:
    """Scores that are all at hand, of shape (n,), n >= 1: a sketch of them would be drawn by chance.

    >>> Sample(np.array([3.0, 1.0, 2.0])).quantile(0.5)
    2.0
    """

    def __init__(self, scores: NDArray[np.floating]) -> None:
        self._sorted = np.sort(scores)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._sorted)

    def quantile(self, rank: float) -> float:
        """The least score that at least this share of them does not exceed."""
        return float(self._sorted[max(math.ceil(rank * self.count), 1) - 1])


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


def exceeded(scores: Distribution, rate: float) -> float:
    """The score that this share of events exceeds, also where it lies beyond all scores that were seen.

    Beyond them the tail goes on as a generalised Pareto distribution, fitted to the largest scores by their
    probability-weighted moments, and never lighter than an exponential one. From 160 scores, the score that
    one event in 100,000 exceeds is found within a factor of about two where tails are light, and within ten
    where they fall as slowly as the square.

    Sources: Pickands 1975 (the tail); Hosking and Wallis 1987 (the fit); Siffer et al. 2017, "Anomaly
    Detection in Streams with Extreme Value Theory" (its use for thresholds).

    Raises:
        SketchError: the sketch is empty.
    """
    share = max(rate, min(0.25, _TAIL / max(scores.count, 1)))
    start = max(scores.quantile(1 - share), SMALLEST)
    if rate >= share:
        return start
    ranks = [(i + 0.5) / _TAIL for i in range(_TAIL)]  # of the excess, from the largest
    excess = [max(scores.quantile(1 - share * rank) - start, 0.0) for rank in ranks]
    mean = sum(excess) / _TAIL
    lower = sum(rank * size for rank, size in zip(ranks, excess, strict=True)) / _TAIL
    if mean <= 0.0:
        return start
    # An exponential tail has lower = mean / 4; no tail has less than 0.
    shape = min(max(2 - mean / max(mean - 2 * lower, SMALLEST), 0.0), _HEAVIEST)
    scale = mean * (1 - shape)
    return start + scale * (
        math.expm1(shape * math.log(share / rate)) / shape if shape else math.log(share / rate)
    )


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
