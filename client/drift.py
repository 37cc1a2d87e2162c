"""Whether a stream still looks as it did: recent scores against those at calibration."""

from __future__ import annotations

import numpy as np
from datasketches import kll_floats_sketch, ks_test
from numpy.typing import NDArray

from common.sketch import pieces

WINDOW = 1000
"""Scores that are compared at a time."""
IN_A_ROW = 2
"""Windows that must all differ, so that one odd hour is no drift."""
_K = 400


class Drift:
    """A Kolmogorov-Smirnov test of each window of scores against the scores at calibration.

    Sources: Karnin, Lang and Liberty 2016, "Optimal Quantile Approximation in Streams" (the sketch), and the
    test on two such sketches in Apache DataSketches.

    Args:
        p: Probability below which two sets of scores are held to be of different distributions.
        calibration: Scores of shape (n,); where there are fewer than `WINDOW`, the stream's first are used.
    """

    def __init__(self, p: float, calibration: NDArray[np.floating] | None = None) -> None:
        self._p = p
        self._calibration = kll_floats_sketch(_K)
        self._window = kll_floats_sketch(_K)
        self._differing = 0
        if calibration is not None:
            for piece in pieces(calibration):
                self._calibration.update(piece)

    @property
    def drifted(self) -> bool:
        """Whether the newest windows all differ from the calibration."""
        return self._differing >= IN_A_ROW

    def add(self, scores: NDArray[np.floating]) -> None:
        """Take the next scores, shape (n,), all finite."""
        scores = np.ascontiguousarray(scores, np.float32)
        missing = max(0, WINDOW - self._calibration.n)
        if missing:
            self._calibration.update(scores[:missing])
            scores = scores[missing:]
        while len(scores):
            room = WINDOW - self._window.n
            self._window.update(scores[:room])
            scores = scores[room:]
            if self._window.n == WINDOW:
                differs = ks_test(self._calibration, self._window, self._p)
                self._differing = self._differing + 1 if differs else 0
                self._window = kll_floats_sketch(_K)
