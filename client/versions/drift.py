"""Whether a stream still looks as it did: recent scores against those at calibration."""

from __future__ import annotations

import numpy as np
from datasketches import kll_floats_sketch, ks_test
from numpy.typing import NDArray

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
        calibration: Of `calibration`; where it is of fewer scores than `WINDOW`, the stream's first are used.
    """

    def __init__(self, p: float, calibration: bytes = b"") -> None:
        self._p = p
        self._calibration = kll_floats_sketch.deserialize(calibration) if calibration else _empty()
        self._window = _empty()
        self._differing = 0

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
                self._window = _empty()


def calibration(scores: NDArray[np.floating]) -> bytes:
    """What `Drift` compares a stream with: a sketch of scores of shape (n,), all finite."""
    sketch = _empty()
    sketch.update(np.ascontiguousarray(scores, np.float32))
    return bytes(sketch.serialize())


def _empty() -> kll_floats_sketch:
    return kll_floats_sketch(_K)
