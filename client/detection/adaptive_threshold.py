"""The threshold of a stream: it rises with incidents and falls between them, as the budget allows."""

from __future__ import annotations

import math

MAX_RISE = 2.0
"""Multiple of the upper bound of the evidence up to which incidents may raise the threshold."""
RISE = 0.3
"""Rise of the logarithm of the threshold with each incident: 35 %."""


class AdaptiveThreshold:
    """The score above which an event is abnormal.

    The logarithm of the threshold rises by `RISE` with each incident and falls by `RISE * rate` with each
    event outside incidents. So it is constant on average if incidents come at the rate of the budget. It
    rises when the scores of normal events become larger, and falls when they become smaller.

    Source: Gibbs and Candes 2021, "Adaptive Conformal Inference Under Distribution Shift", equation 2, with
    the logarithm of the threshold in place of the quantile.

    One thread calls the methods; any thread may read `value` and set `bounds` and `rate`.

    Args:
        value: The threshold to begin with.
        bounds: Lower and upper bound that follow from the evidence, as `starting_threshold` returns them.
        rate: Incidents per event that the budget allows.
        fixed: Whether the threshold never changes.

    >>> threshold = AdaptiveThreshold(1.0, rate=0.01)
    >>> threshold.incident_started(); round(threshold.value, 3)
    1.35
    >>> threshold.quiet(100); round(threshold.value, 3)
    1.0
    """

    def __init__(
        self,
        value: float,
        bounds: tuple[float, float] = (0.0, math.inf),
        rate: float = 0.0,
        fixed: bool = False,
    ) -> None:
        self.value = value
        self.bounds = bounds
        self.rate = rate
        self.fixed = fixed
        self._risen = False

    def incident_started(self) -> None:
        """Raise the threshold, but not above `MAX_RISE` times the upper bound."""
        if not self.fixed:
            self._risen = True
            self.value = max(self.value, min(self.value * math.exp(RISE), MAX_RISE * self.bounds[1]))

    def quiet(self, events: int) -> None:
        """Lower the threshold after events outside incidents, but not below the lower bound.

        A threshold above the upper bound that no incident has raised falls to this bound at once.

        Args:
            events: Number of events outside incidents since the last call.
        """
        if self.fixed:
            return
        fallen = self.value * math.exp(-RISE * self.rate * events)
        if not self._risen:
            fallen = min(fallen, self.bounds[1])
        self.value = min(self.value, max(fallen, self.bounds[0]))
