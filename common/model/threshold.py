"""The threshold: the score above which an event is abnormal, from scores of normal events."""

from __future__ import annotations

import math

import numpy as np

from common.model.histogram import ScoreHistogram
from common.robust import SMALLEST

_TAIL = 32
"""Number of largest scores that the tail is fitted to."""
_MAX_SHAPE = 0.9
"""Largest shape of a fitted tail. At 1 a tail has no mean, and a fit to few scores is unreliable near it."""
MAX_FLEET_RATIO = 3.0
"""Largest threshold of a client without scores of its own, as a multiple of the fleet's largest score."""
ENOUGH_SCORES = 200
"""Number of own scores from which the fleet's do not change the upper bound."""
FLEET_RANK = 0.99
"""Quantile of the fleet's scores, times `MAX_FLEET_RATIO`, that is their part of it: not one outlier's."""
LOWER_BOUND_RATE = 8.0
"""Multiple of the budget's rate at which the own scores' quantile is the lower bound of the threshold.

An incident is more than one event above the threshold, and old scores hold faults that no version at the time
detected: at the rate itself, the bound kept the notices below half of the budget on ASD.
"""
MIN_ROBUST = 30
"""Number of scores that `robust_limit` needs."""


def tail_quantile(scores: ScoreHistogram, rate: float) -> float:
    """Return the score that a share `rate` of events exceeds, extrapolated beyond the largest score.

    The tail is extrapolated as a generalised Pareto distribution, fitted to the largest scores by
    probability-weighted moments, and never lighter than an exponential one. From 160 scores, the score that
    one event in 100,000 exceeds is estimated within a factor of about two for light tails, and within ten
    for tails that fall with the square of the score.

    Sources: Pickands 1975 (the tail); Hosking and Wallis 1987 (the fit); Siffer et al. 2017, "Anomaly
    Detection in Streams with Extreme Value Theory" (its use for thresholds).

    Raises:
        HistogramError: there are no scores.
    """
    share = max(rate, min(0.25, _TAIL / max(scores.count, 1)))
    start = max(scores.quantile(1 - share), SMALLEST)
    if rate >= share:
        return start
    ranks = (np.arange(_TAIL) + 0.5) / _TAIL  # of the excesses, the largest first
    excesses = np.maximum(scores.quantiles(1 - share * ranks) - start, 0.0)
    mean, weighted = float(excesses.mean()), float((ranks * excesses).mean())
    if mean <= 0.0:
        return start
    # An exponential tail has a weighted mean of mean / 4; a heavier one has less, down to 0.
    shape = min(max(2 - mean / max(mean - 2 * weighted, SMALLEST), 0.0), _MAX_SHAPE)
    scale = mean * (1 - shape)
    return start + scale * (
        math.expm1(shape * math.log(share / rate)) / shape if shape else math.log(share / rate)
    )


def starting_threshold(
    fleet: ScoreHistogram, own: ScoreHistogram, rate: float, surprisals: bool = False
) -> tuple[float, float, float]:
    """Return the first threshold, and the bounds of the threshold that follow from the client's own scores.

    It is the tail of the fleet's scores at `rate`, limited by the client's own scores: at least their
    quantile at `rate`, and at most the largest one times 1.5, or times `1 + 60 / n` with fewer than 120
    scores. Without own scores it is at most `MAX_FLEET_RATIO` times the largest score of the fleet. With
    fewer than `ENOUGH_SCORES` it begins at its upper bound, which lies between the own one and a multiple of
    the fleet's scores: the first hours of a machine do not show what its first day brings. Later the
    threshold may fall to the quantile of the own scores at `LOWER_BOUND_RATE` times the rate.

    Far outside its data an extrapolated tail is unreliable: the largest of `n` scores estimates the score
    that one event in `n` exceeds, and nothing in the scores shows how the distribution continues. Source:
    Coles 2001, "An Introduction to Statistical Modeling of Extreme Values", chapter 4, on extrapolation. The
    factors were chosen by hand: with 60 scores the tail may be at twice the largest one.

    Surprisals say how rare they are: one event in a hundred exceeds -log(0.01). Until the own scores cover
    the time of one event at `rate`, the threshold is at least the surprisal of `rate`: own scores are too
    small, as most are of rows that the detectors were fitted to, the more so the fewer rows there are.

    Args:
        fleet: The fleet's scores under the version; may be empty.
        own: The client's scores under the version; may be empty.
        rate: Share of normal events that may be above the threshold.
        surprisals: Whether scores are surprisals, as those of an ensemble.

    Returns:
        The threshold, its lower bound and its upper bound.

    Raises:
        HistogramError: both histograms are empty.
    """
    tail = tail_quantile(fleet if fleet.count else own, rate)
    if own.count:
        tail = max(tail, own.quantile(1 - rate))
        lowest = max(own.quantile(max(1 - LOWER_BOUND_RATE * rate, 0.0)), SMALLEST)
        highest = max(1.5, 1 + 60 / own.count) * max(own.quantile(1.0), SMALLEST)
        if own.count < ENOUGH_SCORES:
            share = own.count / ENOUGH_SCORES
            if fleet.count:
                highest = max(highest, highest**share * _fleet_limit(fleet, FLEET_RANK) ** (1 - share))
            tail = max(tail, highest)
    else:
        lowest, highest = SMALLEST, _fleet_limit(fleet, 1.0)
    if surprisals and own.count * rate < 1:
        lowest = max(lowest, -math.log(rate))
        highest = max(highest, lowest)
    return min(max(tail, lowest), highest), lowest, highest


def _fleet_limit(fleet: ScoreHistogram, rank: float) -> float:
    """Return the largest threshold that the fleet's scores, up to a quantile of theirs, are evidence for."""
    return MAX_FLEET_RATIO * max(fleet.quantile(rank), SMALLEST)


def robust_limit(normal: ScoreHistogram) -> float:
    """Return the score above which an event is too unusual to be learned from, even if it raises no alert.

    It is the third quartile of the logarithms of normal scores plus three times their interquartile range
    (Tukey 1977, the outer fence): a share of unusual events that is far below a quarter does not move it.
    Infinite with fewer than `MIN_ROBUST` scores.
    """
    if normal.count < MIN_ROBUST:
        return math.inf
    lower, upper = (max(normal.quantile(rank), SMALLEST) for rank in (0.25, 0.75))
    return upper * (upper / lower) ** 3
