"""How rare a score is: minus the logarithm of the share of normal events that score as high."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.model.sketch import ScoreSketch
from common.model.threshold import SMALLEST, Sample, exceeded

STEP = 0.5
"""Of rarity, from one limit to the next."""
LIMITS = 60
_MIN = 1e-6
"""From one limit's logarithm to the next one's, at least: scores are float32."""


class ScoreTail:
    """One network's scores on normal events, as a rising function from a score to its rarity, in nats.

    Up to its first limit it is linear in the score, from there in the logarithm of the score. Beyond the last
    one, which one event in 10^13 exceeds, it goes on as steep as before. So it is finite and always rises.

    Args:
        limits: Shape (LIMITS,), rising: the scores that shares `exp(-STEP)`, `exp(-2 * STEP)`, ... of normal
            events exceed.

    Raises:
        ValueError: the limits are not such.

    >>> tail = ScoreTail.of(np.arange(1000.0), ScoreSketch(), prior=1)
    >>> round(math.exp(-tail.rarity(900.0)), 2), round(tail.rarity(1e9)) > round(tail.rarity(1e6)) > 30
    (0.1, True)
    """

    def __init__(self, limits: NDArray[np.float64]) -> None:
        sound = limits.shape == (LIMITS,) and limits.dtype == np.float64 and np.isfinite(limits).all()
        if not sound or (limits <= 0).any() or not (np.diff(np.log(limits)) > _MIN / 2).all():
            raise ValueError(f"a tail: expected {LIMITS} finite limits that rise from above 0")
        self.limits = limits
        self._first = float(limits[0])
        self._logs = [math.log(limit) for limit in limits]

    @classmethod
    def of(cls, own: NDArray[np.floating], fleet: ScoreSketch, prior: int) -> Self:
        """The tail of a client's own scores, drawn towards the fleet's: the more, the fewer they are.

        Of `n` scores of its own it takes `n / (n + prior)`. Limits are mixed as logarithms, as thresholds and
        residuals are. Beyond what was seen both go on as generalised Pareto distributions (`exceeded`).

        Args:
            own: Shape (n,), n >= 1, finite.
            fleet: May be empty.
            prior: With so many scores, own ones count as much as the fleet's.
        """
        rates = [math.exp(-STEP * (i + 1)) for i in range(LIMITS)]
        sample = Sample(own)
        logs = np.log([max(exceeded(sample, rate), SMALLEST) for rate in rates])
        if fleet.count:
            share = len(own) / (len(own) + prior)
            theirs = np.log([max(exceeded(fleet, rate), SMALLEST) for rate in rates])
            logs = share * logs + (1 - share) * theirs
        least = _MIN * np.arange(LIMITS)
        return cls(np.exp(np.maximum.accumulate(logs - least) + least))

    def rarity(self, score: float) -> float:
        """Of one score, at least 0; without NumPy, which takes longer for one."""
        if score <= self._first:
            return STEP * score / self._first
        log, logs = math.log(score), self._logs
        at = min(bisect_right(logs, log), LIMITS - 1)
        return STEP * (at + (log - logs[at - 1]) / (logs[at] - logs[at - 1]))

    def rarities(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Of scores of any shape, at least 0."""
        exact, last = scores.astype(np.float64), self._logs[-1]
        low = np.minimum(exact, self._first) / self._first
        logs = np.log(np.maximum(exact, self._first))
        inside = np.interp(logs, self._logs, STEP * np.arange(LIMITS))
        beyond = np.maximum(logs - last, 0.0) * (STEP / (last - self._logs[-2]))
        found: NDArray[np.float64] = STEP * low + inside + beyond
        return found
