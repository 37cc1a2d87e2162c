"""Drift: a lasting difference between recent scores and the scores at calibration."""

from __future__ import annotations

import numpy as np
from datasketches import kll_floats_sketch, ks_test
from numpy.typing import NDArray

WINDOW = 1000
"""Scores in one comparison."""
IN_A_ROW = 2
"""Comparisons in a row that must differ: a single unusual hour is not drift."""
_K = 400


class Drift:
    """A Kolmogorov-Smirnov test of every `WINDOW` scores against the scores at calibration.

    Sources: Karnin, Lang and Liberty 2016, "Optimal Quantile Approximation in Streams" (the sketch), and the
    test on two such sketches in Apache DataSketches.

    Args:
        p: The p-value below which two sets of scores count as different distributions.
        calibration: A sketch made by `calibration`. If it has fewer than `WINDOW` scores, the first scores of
            the stream are added to it.
    """

    def __init__(self, p: float, calibration: bytes = b"") -> None:
        self._p = p
        self._calibration = kll_floats_sketch.deserialize(calibration) if calibration else _empty()
        self._window = _empty()
        self._differing = 0

    @property
    def drifted(self) -> bool:
        """Whether the last `IN_A_ROW` comparisons all differed."""
        return self._differing >= IN_A_ROW

    def add(self, scores: NDArray[np.floating]) -> None:
        """Add the next scores of the stream, shape (n,), all finite."""
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
    """Return a serialised sketch of scores, shape (n,), all finite, for `Drift` to compare a stream with."""
    sketch = _empty()
    sketch.update(np.ascontiguousarray(scores, np.float32))
    return bytes(sketch.serialize())


def _empty() -> kll_floats_sketch:
    return kll_floats_sketch(_K)
