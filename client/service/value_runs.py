"""Runs of equal values of the features of a stream, and which of them are unusually long."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_STUCK_EVENTS = 30
"""Events in a row with the same value after which a sensor can be stuck."""
MIN_CHANGING_SHARE = 0.9
"""Share of the events before that changed the value, of a feature that can be stuck."""
LONGEST_RATIO = 3
"""Multiple of the longest run before that an unusual run exceeds."""
EVIDENCE_RATIO = 10
"""Multiple of the length of an unusual run that the events before it have to reach."""

# The four were chosen on the training rows of asd and nab, without labels: no run of these is unusual
# (355 and 114 days). With a share of 0.5, 12 runs were.


class Run(NamedTuple):
    """A run of equal values of a feature that has not ended."""

    feature: int
    """Position of the feature."""
    value: float
    events: int
    since: float
    """Time of its first event, in seconds since 1970."""
    from_s: float
    """The same in seconds of the stream, which do not jump."""
    longest: int
    """Events of the longest run before."""


class ValueRuns:
    """Counts for each feature how long its value has been the same, and how long it usually is.

    A missing value ends a run.

    Args:
        features: Number of features.
    """

    def __init__(self, features: int) -> None:
        self._count = 0
        self._changes = np.zeros(features, np.int64)
        self._last = np.full(features, np.nan, np.float32)
        """The newest value of each feature; NaN before the first."""
        self._run = np.zeros(features, np.int64)
        """Number of newest events with this value."""
        self._since = np.zeros((features, 2), np.float64)
        """Both times of the first of these events, as `add` gets them."""
        self._longest = np.zeros(features, np.int64)
        self._lowest = np.full(features, np.inf, np.float32)
        self._highest = np.full(features, -np.inf, np.float32)

    def add(self, rows: NDArray[np.float32], times: NDArray[np.float64]) -> None:
        """Add consecutive events.

        Args:
            rows: Shape (n, features), n at least 1; NaN where a value is missing.
            times: Their times in seconds since 1970, and in seconds of the stream: shape (n, 2).
        """
        values = np.ascontiguousarray(np.concatenate([self._last[None], rows]).T)  # a row for each feature
        ended = values[:, 1:] != values[:, :-1]  # also by a missing value, which is equal to none
        present = values == values
        changed = ended if present.all() else ended & present[:, 1:] & present[:, :-1]
        self._lowest = np.fmin(self._lowest, np.fmin.reduce(values, axis=1))
        self._highest = np.fmax(self._highest, np.fmax.reduce(values, axis=1))
        self._last = rows[-1]
        self._count += len(rows)
        self._changes += np.count_nonzero(changed, axis=1)
        if ended.all():  # the usual case of features that change with each event
            self._longest = np.maximum(self._longest, np.maximum(self._run, int(len(rows) > 1)))
            self._run[:], self._since[:] = 1, times[-1]
            return
        number = np.arange(len(rows))
        starts = np.concatenate([-self._run[:, None], np.where(ended, number, -self._count - 1)], axis=1)
        starts = np.maximum.accumulate(starts, axis=1)  # of the run that each event continues, by its number
        lengths = np.where(ended, number - starts[:, :-1], 0)
        self._longest = np.maximum(self._longest, lengths.max(axis=1))
        newest = starts[:, -1]
        self._since = np.where(newest[:, None] >= 0, times[np.maximum(newest, 0)], self._since)
        self._run = len(rows) - newest

    def unusual(self) -> list[Run]:
        """Return the runs that are unusually long for their feature.

        A feature that rests at its smallest or largest value so far may be idle: it is not stuck.
        """
        if not (self._run > MIN_STUCK_EVENTS).any():  # the usual case
            return []
        least = np.maximum(MIN_STUCK_EVENTS, LONGEST_RATIO * self._longest)
        before = self._count - self._run
        chosen = (
            (self._run > least)
            & (before >= EVIDENCE_RATIO * least)
            & (self._changes >= MIN_CHANGING_SHARE * before)
            & (self._last > self._lowest)
            & (self._last < self._highest)
        )
        return [self._newest_run(i) for i in map(int, np.flatnonzero(chosen))]

    def _newest_run(self, feature: int) -> Run:
        since, from_s = self._since[feature].tolist()
        events, longest = int(self._run[feature]), int(self._longest[feature])
        return Run(feature, float(self._last[feature]), events, since, from_s, longest)
