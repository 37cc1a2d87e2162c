"""The last events of a stream in memory: written by the loop, read by the keeper, without a lock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BATCH_EVENTS = 256
"""The largest number of events that a source returns at once, and that are scored together."""

NORMAL, ABNORMAL = 0, 1
"""Flags of an event: below the threshold and in no incident, or not."""


@dataclass(frozen=True, eq=False)
class EventSlice:
    """Events in their order, each array of length n."""

    start: int
    """Number of the first event, counted from the start of the stream."""
    rows: NDArray[np.float32]
    """Shape (n, features), in the features' own units."""
    scores: NDArray[np.float32]
    """NaN where there was no version, or no whole window yet."""
    times: NDArray[np.float64]
    """Seconds since 1970."""
    versions: NDArray[np.int64]
    flags: NDArray[np.uint8]


class RecentEvents:
    """A ring of the last `size` events. One thread writes; any may take copies."""

    def __init__(self, features: int, size: int = 8192) -> None:
        self.size = size
        self.rows = np.zeros((size, features), np.float32)
        self.views = list(self.rows)
        self.buffer = memoryview(self.rows.data).cast("B")
        self.row_bytes = self.rows.itemsize * features
        self.scores = np.full(size, np.nan, np.float32)
        self.times = np.zeros(size, np.float64)
        self.versions = np.zeros(size, np.int64)
        self.flags = np.zeros(size, np.uint8)
        self.count = 0
        """Events that were written; the writer raises it after it has written one."""

    def last(self, n: int) -> NDArray[np.float32]:
        """Copies of the rows of the last `n` events, or of those there are: shape (<= n, features)."""
        chosen = np.arange(max(self.count - n, self.count - self.size, 0), self.count) % self.size
        return self.rows[chosen]

    def since(self, start: int) -> EventSlice:
        """The events from number `start` on, as far as they are still there.

        Those that the writer overwrote meanwhile are left out.
        """
        last = self.count
        first = max(start, last - self.size, 0)
        chosen = np.arange(first, max(first, last)) % self.size
        rows, scores = self.rows[chosen], self.scores[chosen]
        times, versions, flags = self.times[chosen], self.versions[chosen], self.flags[chosen]
        # The writer is at `count` already, and may be writing the batch after it.
        lost = min(len(chosen), max(0, self.count + MAX_BATCH_EVENTS - self.size - first))
        return EventSlice(
            first + lost, rows[lost:], scores[lost:], times[lost:], versions[lost:], flags[lost:]
        )
