"""Bounds the influence of one client on everything that is summed over clients.

Rules, where a robust standard deviation is 1.4826 times the median absolute deviation over clients:

- *Mass.* A client counts as at most `MAX_MASS` times as many rows, windows or scores as the median client.
- *Usual range.* What clients measure on similar machines differs by factors. The usual range is the median of
  the logarithms, plus and minus `LIMIT` robust standard deviations, at least `MIN_LOG`. A client whose scores
  are outside is left out.
- *Clipping.* Spreads and squared errors are moved to the end of a narrower range: the median of the
  logarithms, plus and minus `CLIP` robust standard deviations, at least `MIN_CLIP`. So the differences among
  honest clients bound what one client adds.

All but the first hold from `MIN_CLIENTS` clients on: of two nobody can say which is wrong. Median and median
absolute deviation stay bounded while fewer than half of the clients are wrong. Sources: Hampel 1974, "The
influence curve and its role in robust estimation" (median and MAD); Huber 1964, "Robust estimation of a
location parameter" (values moved to the end of a range around it, of one to two standard deviations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.model.histogram import ScoreHistogram
from common.model.moments import MAX_SPREAD_RATIO, Moments
from common.model.residuals import Residuals
from common.robust import MAD_TO_STD, SMALLEST

MIN_CLIENTS = 3
"""Smallest number of clients in which a majority can outvote one that is wrong."""

MAX_MASS = 3.0
"""Largest weight of a client, in weights of the median client; of two, in those of the smaller one."""

LIMIT = 3.0
"""Half the width of the usual range, in robust standard deviations."""

MIN_LOG = 1.5
"""Smallest half width of the usual range: clients that agree closely tolerate a factor of 4.5."""

CLIP = 1.5
"""Half width of the range that spreads and squared errors are clipped to, in robust standard deviations."""

MIN_CLIP = 0.4
"""Smallest half width of this range for squared errors, a factor of 1.5; for spreads it is half of that."""

MAX_TAIL = 1.25
"""Largest score of a rank, in scores of this rank of the median client, where the clients differ by less."""

RANKS = (0.5, 0.99)
"""Ranks at which a client's scores are compared with those of the others."""

MAX_LOG = 700.0
"""Logarithm of a number that is far above all values, and finite."""

Floats = NDArray[np.float64]


def largest_mass(counts: Sequence[float]) -> float:
    """Return the largest number of rows, windows or scores that one client counts as.

    >>> largest_mass([100, 300, 50, 10**12]), largest_mass([1, 100]), largest_mass([5])
    (300.0, 3.0, inf)
    """
    return MAX_MASS * float(np.quantile(counts, 0.5, method="lower")) if len(counts) > 1 else float("inf")


def usual_range(values: Floats, limit: float = LIMIT, least: float = MIN_LOG) -> tuple[Floats, Floats]:
    """Return the smallest and the largest usual value, over clients on the first axis.

    Args:
        values: Shape (clients, ...), positive; NaN where a client has none.
        limit: Half the width of the range, in robust standard deviations of the logarithms.
        least: The least half of the width, in logarithms.

    Returns:
        Two arrays of shape (...): from 0 to infinity where fewer than `MIN_CLIENTS` have a value.

    >>> low, high = usual_range(np.array([1.0, 1.1, 0.9, 30.0]))
    >>> round(float(low), 2), round(float(high), 2)
    (0.23, 4.7)
    """
    known = (~np.isnan(values)).sum(axis=0) >= MIN_CLIENTS
    logs = np.where(known, np.log(values), 0.0)
    centre = np.nanmedian(logs, axis=0)
    width = np.maximum(limit * MAD_TO_STD * np.nanmedian(np.abs(logs - centre), axis=0), least)
    low, high = np.exp(centre - width), np.exp(np.minimum(centre + width, MAX_LOG))
    return np.where(known, low, 0.0), np.where(known, high, np.inf)


def out_of_line(scores: Mapping[str, ScoreHistogram]) -> set[str]:
    """Return the clients whose scores are unusual beside the others', because of a fault or an attack.

    Args:
        scores: Histograms that are not empty, by client.
    """
    names = sorted(scores)
    if len(names) < MIN_CLIENTS:
        return set()
    levels = np.array([[max(scores[name].quantile(r), SMALLEST) for r in RANKS] for name in names])
    low, high = usual_range(levels)
    unusual = np.asarray(((levels < low) | (levels > high)).any(axis=1))
    return {names[i] for i in np.flatnonzero(unusual)}


def merged_scores(scores: Mapping[str, ScoreHistogram], earlier: ScoreHistogram) -> ScoreHistogram:
    """Return the scores of all clients together, with bounded influence of each.

    A client with unusual scores is left out. The mass of each other client is bounded, and its largest scores
    are clipped by those of the others (`_clipped_tails`).

    Args:
        scores: Histograms by client.
        earlier: Scores of an earlier version, which stand in for clients that have not sent any.
    """
    scores = {name: part for name, part in sorted(scores.items()) if part.count}
    unusual = out_of_line(scores)
    used = [part for name, part in scores.items() if name not in unusual]
    mass = largest_mass([part.count for part in used])
    if len(used) < MIN_CLIENTS and earlier.count:
        mass = min(mass, earlier.count)
    return ScoreHistogram.merge_all([*(part.capped(mass) for part in _clipped_tails(used)), earlier])


def _clipped_tails(parts: Sequence[ScoreHistogram]) -> Sequence[ScoreHistogram]:
    """Return histograms in which no score exceeds the limit of its rank.

    The limit for the score that a share of a client's scores exceeds is `MAX_TAIL` times the median client's
    score that the same share exceeds, or one robust standard deviation of the clients' above it, if that is
    more. So huge scores count as the usual scores of their ranks.

    Args:
        parts: Of each client, none of them empty.
    """
    if len(parts) < MIN_CLIENTS:
        return parts
    octaves = np.arange(1, 2 + int(np.log2(max(part.count for part in parts))))
    logs = np.log(np.maximum([part.quantiles(1 - 0.5**octaves) for part in parts], SMALLEST))
    centre = np.median(logs, axis=0)
    spread = MAD_TO_STD * np.median(np.abs(logs - centre), axis=0)
    limits = np.maximum.accumulate(centre + np.maximum(spread, np.log(MAX_TAIL)))
    clipped = []
    for part in parts:
        above = part.count - np.cumsum(part.counts)
        octave = -np.log2((above + part.counts / 2) / part.count)
        clipped.append(part.clipped(np.exp(np.minimum(np.interp(octave, octaves, limits), MAX_LOG))))
    return clipped


def merged_residuals(residuals: Mapping[str, Residuals], earlier: Residuals) -> Residuals:
    """Return the residuals of all clients together: each mean clipped, each mass bounded.

    Args:
        residuals: By client, all of the same inputs, or empty.
        earlier: Residuals of an earlier version, which stand in for clients that have not sent any.
    """
    parts = [part for _, part in sorted(residuals.items()) if part.count]
    if not parts:
        return earlier
    mass = largest_mass([part.count for part in parts])
    if len(parts) < MIN_CLIENTS and earlier.count:
        mass = min(mass, earlier.count)
    means = np.stack([_mean_squares(part) for part in parts])
    low, high = usual_range(means, CLIP, MIN_CLIP)
    parts = [_bounded(p, np.clip(m, low, high), mass) for p, m in zip(parts, means, strict=True)]
    return Residuals.merge_all([*parts, earlier])


def _mean_squares(part: Residuals) -> Floats:
    """Return a client's mean squared error of each input; NaN where none is known."""
    counts = np.broadcast_to(np.asarray(part.counts, np.float64), part.squares.shape)
    means = np.full(part.squares.shape, np.nan)
    np.divide(np.maximum(part.squares, SMALLEST), counts, out=means, where=counts > 0)
    return means


def _bounded(part: Residuals, means: Floats, mass: float) -> Residuals:
    """Return residuals with other means, of at most `mass` windows; as they are if nothing changes."""
    share = min(1.0, mass / part.count)
    if share == 1.0 and np.array_equal(means, _mean_squares(part), equal_nan=True):
        return part
    count = max(1, round(share * part.count))
    counts = np.minimum(share * np.asarray(part.counts, np.float64), count)
    squares = np.nan_to_num(means) * counts
    return Residuals(count, squares, counts if part.present.size else part.present)


def merged_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all clients' rows together, with bounded influence of each.

    Each client's spread and step are clipped. Its mean, smallest and largest value are at most `LIMIT` robust
    deviations from the median client's, where a deviation is at least the median client's spread, or range.

    Args:
        parts: One of each client, at least one, with equal features.
    """
    if len(parts) == 1:
        return parts[0]
    there = np.stack([np.broadcast_to(np.asarray(p.counts) > 0, p.mean.shape) for p in parts])

    def column(values: Sequence[Floats]) -> Floats:
        """Return one row per client; NaN for a feature that the client does not have."""
        return np.where(there, np.stack(values), np.nan)

    means, lows, highs = (column([getattr(p, n) for p in parts]) for n in ("mean", "minimum", "maximum"))
    variances = column([p.variance for p in parts])
    withins = column([p.within / np.maximum(p.counts, 1) for p in parts])
    magnitude = np.maximum(_median(np.maximum(np.abs(lows), np.abs(highs))), 1.0)
    spread, extent = np.sqrt(_median(variances)), _median(highs - lows)
    variances, withins = (_clipped(np.sqrt(v), magnitude) ** 2 for v in (variances, withins))
    steps = column([p.steps for p in parts])
    steps = np.where(steps > 0, np.maximum(_clipped(steps, magnitude), _usual_spreads(steps)[0]), steps)
    means, lows, highs = near_median(means, spread), near_median(lows, extent), near_median(highs, extent)
    mass = largest_mass([p.count for p in parts])
    bounded = []
    for i, part in enumerate(parts):
        share = min(1.0, mass / part.count)
        count = max(1, round(share * part.count))
        counts = np.minimum(share * np.asarray(part.counts), count)
        mean, m2, low, high, within, step = (
            np.nan_to_num(array)
            for array in (means[i], variances[i] * counts, lows[i], highs[i], withins[i] * counts, steps[i])
        )
        present = counts if part.present.size else part.present
        bounded.append(
            Moments(count, mean, m2, low, high, within, present, step if part.step.size else part.step)
        )
    return Moments.merge_all(bounded)


def _median(values: Floats) -> Floats:
    """Return the median over clients, shape (features,); 0 for a feature that none has."""
    known = (~np.isnan(values)).any(axis=0)
    median: Floats = np.nanmedian(np.where(known, values, 0.0), axis=0)
    return median


def _clipped(values: Floats, magnitude: Floats) -> Floats:
    """Return spreads, none of them larger than the largest usual one.

    A feature that does not vary on most clients has no usual spread. Then `MAX_SPREAD_RATIO` times its
    magnitude is the limit.
    """
    usual = _usual_spreads(values)[1]
    most = (values > 0).sum(axis=0) * 2 > (~np.isnan(values)).sum(axis=0)
    return np.minimum(values, np.where(most & np.isfinite(usual), usual, MAX_SPREAD_RATIO * magnitude))


def _usual_spreads(values: Floats) -> tuple[Floats, Floats]:
    """Return the smallest and the largest usual spread of each feature that varies."""
    return usual_range(np.where(values > 0, values, np.nan), CLIP, MIN_CLIP / 2)


def near_median(values: Floats, scale: Floats | float) -> Floats:
    """Return values, clients on the first axis, each at most `LIMIT` deviations from the median client's.

    Args:
        values: NaN where a client has none.
        scale: The smallest deviation.
    """
    centre = _median(values)
    deviation = LIMIT * np.maximum(MAD_TO_STD * _median(np.abs(values - centre)), scale)
    return np.clip(values, centre - deviation, centre + deviation)
