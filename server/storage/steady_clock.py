"""Says whether the wall clock can be trusted, before anything is deleted because of its age."""

from __future__ import annotations

import time

STEADY_S = 86400.0
"""Time without a jump after which the wall clock is trusted."""
MAX_STEP_S = 60.0
"""Largest difference between the steps of the wall clock and the monotonic clock that is not a jump."""


class SteadyClock:
    """Compares the wall clock with the monotonic clock.

    A wall clock that jumps years ahead, as some do when their battery is empty, would otherwise make
    everything too old at once.
    """

    def __init__(self) -> None:
        self._from = time.monotonic()
        self._difference_s = time.time() - self._from

    @property
    def is_steady(self) -> bool:
        """Whether the wall clock has not jumped for `STEADY_S`; to be read every few minutes."""
        now = time.monotonic()
        before, self._difference_s = self._difference_s, time.time() - now
        if abs(self._difference_s - before) > MAX_STEP_S:
            self._from = now
        return now - self._from >= STEADY_S
