"""The tail of a detector's scores on normal windows: it turns scores of every family into one unit."""

from __future__ import annotations

from bisect import bisect_right
from typing import Self

import numpy as np

from common.detectors.contract import MAX_SCORE, Floats

KNOTS = 64
"""Scores at which a tail is kept, at most."""
TAIL_SHARE, MIN_TAIL, MAX_TAIL = 0.1, 5, 100
"""The largest scores that a tail is fitted to: a share of all, and limits to their number."""
MIN_SCALE = 0.05
"""Least mean excess in the tail: a usual score is about 1, and scores that hardly differ must not count."""
USUAL_SCALE, PRIOR = 1.0, 10
"""Mean excess that any detector is expected to have, and the number of scores that weigh as much as this.

Few windows that follow each other have scores that are too much alike. A member of an ensemble with a small
mean excess would have nearly all of the votes. The number was chosen by labels: with more, fewer faults are
found."""


class CalibratedTail:
    """Turns scores into surprisals: -log of the share of normal windows with at least such a score.

    Between the scores it was fitted to it interpolates; beyond them the tail is exponential. A surprisal is
    about 0.7 for the median normal window, and rises by 1 for scores that are 2.7 times as rare.

    Source: Kriegel, Kroeger, Schubert and Zimek 2011, "Interpreting and Unifying Outlier Scores".

    Args:
        scores: Rising scores, shape (n,).
        surprisals: Their surprisals, shape (n,), likewise rising.
        scale: Increase of the score beyond the last one for which the surprisal rises by 1.

    >>> tail = CalibratedTail.of(np.arange(1, 101, dtype=np.float32))
    >>> round(tail.surprisal(50.5), 1), round(tail.surprisal(200.0), 1)
    (0.7, 23.9)
    """

    def __init__(self, scores: Floats, surprisals: Floats, scale: float) -> None:
        self._scores, self._surprisals = np.asarray(scores), np.asarray(surprisals)
        self.scale = float(np.float32(scale))  # as a file holds it
        self._knots: list[float] = [0.0, *self._scores.tolist()]  # a list is searched faster than an array
        self._heights: list[float] = [0.0, *self._surprisals.tolist()]
        self._last, self._most = self._knots[-1], self._heights[-1]

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """Fit a tail to scores of normal windows, shape (n,), at least two of them finite."""
        ordered = np.sort(scores[np.isfinite(scores)]).astype(np.float64)
        count = len(ordered)
        if count < 2:
            raise ValueError(f"{count} finite scores; a tail needs two")
        largest = min(max(MIN_TAIL, min(int(TAIL_SHARE * count), MAX_TAIL)), count - 1)
        start = count - largest - 1
        at = np.unique(np.linspace(0, start, KNOTS - 1).astype(int))
        knots, surprisals = ordered[at], -np.log((count - at - 0.5) / count)
        surprisals[-1] = np.log(count / largest)
        knots, first = np.unique(knots, return_index=True)
        excess = max(float(ordered[start + 1 :].mean() - ordered[start]), MIN_SCALE)
        scale = (count * excess + PRIOR * USUAL_SCALE) / (count + PRIOR)
        return cls(knots.astype(np.float32), surprisals[first].astype(np.float32), scale)

    def surprisal(self, score: float) -> float:
        """Return the surprisal of a score; NaN for NaN."""
        if score >= self._last:
            return min(self._most + (score - self._last) / self.scale, MAX_SCORE)
        if score != score:
            return score
        above = bisect_right(self._knots, score)
        low, less = self._knots[above - 1], self._heights[above - 1]
        return less + (self._heights[above] - less) * (score - low) / (self._knots[above] - low)

    def surprisals(self, scores: Floats) -> Floats:
        """Return the surprisals of scores, shape (n,)."""
        inner = np.interp(scores, self._knots, self._heights)
        outer = self._most + (scores.astype(np.float64) - self._last) / self.scale
        outer = np.minimum(outer, MAX_SCORE)
        surprisals: Floats = np.where(scores >= self._last, outer, inner).astype(np.float32)
        return surprisals

    def packed(self) -> Floats:
        """Return one array, shape (2, n + 1): the scores and the scale, the surprisals and 0."""
        return np.array([[*self._scores, self.scale], [*self._surprisals, 0.0]], np.float32)

    @classmethod
    def unpacked(cls, array: Floats) -> Self:
        """Return the tail that `packed` made an array of.

        Raises:
            ValueError: it has another shape, or values that no tail has.
        """
        if array.ndim != 2 or len(array) != 2 or not 2 <= array.shape[1] <= KNOTS + 1:
            raise ValueError("the tail of a detector is no array of scores and surprisals")
        scores, surprisals, scale = array[0, :-1], array[1, :-1], float(array[0, -1])
        rising = (np.diff(scores) > 0).all() and (np.diff(surprisals) >= 0).all()
        if not (np.isfinite(array).all() and rising and scale > 0 and scores[0] >= 0 and surprisals[0] >= 0):
            raise ValueError("the tail of a detector does not rise, or is not finite")
        return cls(scores, surprisals, scale)
