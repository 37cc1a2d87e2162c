"""Drift: a lasting difference between recent scores and the scores at calibration."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.model.histogram import ScoreHistogram

COMPARED_SCORES = 1000
"""Newest scores in one comparison with those at calibration."""
IN_A_ROW = 2
"""Comparisons that must differ one after the other: a single unusual hour is not drift."""
TOLERANCE = 0.01
"""Difference of two distribution functions that is too small to matter, whatever its significance."""


class Drift:
    """A Kolmogorov-Smirnov test of every `COMPARED_SCORES` scores against the scores at calibration.

    Two sets of `n` and `m` scores differ if the largest difference of their distribution functions exceeds
    `sqrt(-log(p / 2) * (n + m) / (2 * n * m))`. Source: Smirnov 1948, "Table for Estimating the Goodness of
    Fit of Empirical Distributions" (the asymptotic distribution, of which this is the first term).

    Args:
        p: The p-value below which two sets of scores count as different distributions.
        calibration: The scores at calibration. If they are fewer than `COMPARED_SCORES`, the first scores of
            the stream are added to them.
    """

    def __init__(self, p: float, calibration: ScoreHistogram | None = None) -> None:
        self._p = p
        self._calibration = calibration or ScoreHistogram.empty()
        self._newest = ScoreHistogram.empty()
        self._differing = 0
        """Comparisons in a row that differed."""

    @property
    def drifted(self) -> bool:
        """Whether the last `IN_A_ROW` comparisons all differed."""
        return self._differing >= IN_A_ROW

    def add(self, scores: NDArray[np.floating]) -> None:
        """Add the next scores of the stream, shape (n,), all finite."""
        missing = max(0, COMPARED_SCORES - self._calibration.count)
        if missing:
            self._calibration = self._calibration.merge(ScoreHistogram.of(scores[:missing]))
            scores = scores[missing:]
        while len(scores):
            room = COMPARED_SCORES - self._newest.count
            self._newest = self._newest.merge(ScoreHistogram.of(scores[:room]))
            scores = scores[room:]
            if self._newest.count == COMPARED_SCORES:
                self._differing = self._differing + 1 if self._differs() else 0
                self._newest = ScoreHistogram.empty()

    def _differs(self) -> bool:
        n, m = self._calibration.count, self._newest.count
        limit = math.sqrt(-math.log(self._p / 2) * (n + m) / (2 * n * m))
        return self._calibration.distance(self._newest) > limit + TOLERANCE
