"""A ring buffer of the newest events, written by the event loop and read by maintenance without a lock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.timestamps import usual_interval_s

MAX_BATCH_EVENTS = 256
"""Largest number of events that a source returns at once and that are scored together.

`RecentEvents.since` relies on it: at most this many rows in the ring are written and not counted yet.
"""

MIN_INTERVALS, MAX_INTERVALS = 8, 1023
"""Smallest and largest number of intervals between events from which the usual one follows: the newest."""

NORMAL, ABNORMAL, UNREPORTED = 0, 1, 2
"""Values of an event's flag: ABNORMAL above the threshold or during an incident, else NORMAL.

UNREPORTED: the same as ABNORMAL, but during an incident that is not reported because its cause flaps, or in
no incident and above a threshold for which there is little evidence.
"""


@dataclass(frozen=True, eq=False)
class EventSlice:
    """Consecutive events, oldest first, each array of length n."""

    start: int
    """Number of the first event, counted from the start of the stream."""
    rows: NDArray[np.float32]
    """Shape (n, features), in each feature's own unit."""
    scores: NDArray[np.float32]
    """NaN without a model version, and before the first whole window."""
    times: NDArray[np.float64]
    """Seconds since 1970."""
    versions: NDArray[np.int64]
    """The version that scored the event; 0 for none."""
    flags: NDArray[np.uint8]
    """NORMAL, ABNORMAL or UNREPORTED."""
    causes: NDArray[np.int32]
    """Position of the feature that leads an event's newest incident, or -1; nothing if it is NORMAL."""


class RecentEvents:
    """The last `size` events of a stream. One thread writes; any thread may take copies.

    Its arrays hold the fields of `EventSlice`. The writer fills slot `count % size` of all of them and then
    raises `count`. It may fill the rows of a whole batch, at most `MAX_BATCH_EVENTS`, before it raises
    `count` for the first of them.

    Args:
        features: Number of features of an event.
        size: Events that the ring holds, more than `MAX_BATCH_EVENTS`.
    """

    def __init__(self, features: int, size: int = 8192) -> None:
        self.size = size
        self.rows = np.zeros((size, features), np.float32)
        self.row_views = list(self.rows)
        """One view for each row: indexing a list is faster than indexing an array."""
        self.buffer = memoryview(self.rows.data).cast("B")
        """The memory of `rows`, for the decoder to write into."""
        self.row_bytes = self.rows.itemsize * features
        self.scores = np.full(size, np.nan, np.float32)
        self.times = np.zeros(size, np.float64)
        self.versions = np.zeros(size, np.int64)
        self.flags = np.zeros(size, np.uint8)
        self.causes = np.zeros(size, np.int32)
        self.count = 0
        """Events written since the start of the stream."""

    @property
    def newest_slot(self) -> int:
        """Position of the newest event in all arrays, if there is one."""
        return (self.count - 1) % self.size

    def last(self, n: int) -> NDArray[np.float32]:
        """Return copies of the rows of the last `n` events, fewer if there are fewer: shape (<= n, features).

        For the writing thread only: another thread could see rows that are being overwritten.
        """
        slots = np.arange(max(self.count - n, self.count - self.size, 0), self.count) % self.size
        return self.rows[slots]

    def since(self, start: int) -> EventSlice:
        """Return copies of the events from number `start` on.

        Events that are no longer in the ring, or that the writer may have overwritten during the copy, are
        left out: then `EventSlice.start` is greater than `start`.
        """
        last = self.count
        first = max(start, last - self.size, 0)
        slots = np.arange(first, max(first, last)) % self.size
        rows, scores = self.rows[slots], self.scores[slots]
        times, versions = self.times[slots], self.versions[slots]
        flags, causes = self.flags[slots], self.causes[slots]
        # The writer has reached `count`, and may have filled the rows of the batch after it already.
        lost = min(len(slots), max(0, self.count + MAX_BATCH_EVENTS - self.size - first))
        return EventSlice(
            first + lost,
            rows[lost:],
            scores[lost:],
            times[lost:],
            versions[lost:],
            flags[lost:],
            causes[lost:],
        )

    @property
    def interval_s(self) -> float | None:
        """The usual seconds between two of the newest events, by their times; None: not known yet."""
        times = self.since(self.count - MAX_INTERVALS - 1).times
        return usual_interval_s(times) if len(times) > MIN_INTERVALS else None
