"""Events that are held back until it is known whether an incident is near them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.buffers.daily_habits import DailyHabits
from client.buffers.recent_events import ABNORMAL, NORMAL, EventSlice, RecentEvents
from client.buffers.training_buffer import BufferedRows

Flags = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReleasedEvents:
    """Consecutive events that are no longer held back, oldest first, each array of length n."""

    rows: NDArray[np.float32]
    """Shape (n, features)."""
    scores: NDArray[np.float32]
    times: NDArray[np.float64]
    versions: NDArray[np.int64]
    normal: Mask
    """Whether the event is normal and no abnormal one is within the margin."""
    causes: NDArray[np.int32]
    """As those of `EventSlice`."""
    habitual: Mask
    """Whether the event is abnormal, but belongs to a daily habit."""
    learnable: Mask
    """Whether the event is normal or habitual and nothing else that is abnormal is within the margin."""
    breaks: Mask
    """Whether the event does not directly follow the previous learnable event."""


class HeldBackEvents:
    """The newest events of a stream, each released once `margin` events have followed it.

    Args:
        recent: The newest events of the stream.
        margin: Number of events before and after an abnormal event that do not count as normal.
        habits: The machine's daily habits, which learn from the abnormal events.
    """

    def __init__(self, recent: RecentEvents, margin: int, habits: DailyHabits) -> None:
        self._recent, self._margin, self._habits = recent, margin, habits
        self._next = 0
        """Number of the first event that is held back."""
        self._before: Flags = np.zeros((2, 0), np.uint8)
        """Flags of the last `margin` released events, with and without those of habits: shape (2, margin).

        They decide about the events after them.
        """
        self._last_learnable = False

    def release(self) -> ReleasedEvents | None:
        """Return the events that can be released since the last call; None if there are none."""
        events = self._recent.since(self._next)
        ready = len(events.rows) - self._margin
        if ready <= 0:
            return None
        lost = events.start > self._next
        habitual = self._habitual(events)
        flags = np.array([events.flags, np.where(habitual, NORMAL, events.flags)])
        before = self._before[:, :0] if lost else self._before
        known = before.shape[1]
        normal, learnable = (
            far_from_incidents(both, self._margin)[known : known + ready]
            for both in np.concatenate([before, flags], axis=1)
        )
        followed = np.concatenate([[self._last_learnable and not lost], learnable[:-1]])
        self._next = events.start + ready
        self._before = np.concatenate([before, flags[:, :ready]], axis=1)[:, -self._margin :]
        self._last_learnable = bool(learnable[-1])
        return ReleasedEvents(
            rows=events.rows[:ready],
            scores=events.scores[:ready],
            times=events.times[:ready],
            versions=events.versions[:ready],
            normal=normal,
            causes=events.causes[:ready],
            habitual=habitual[:ready],
            learnable=learnable,
            breaks=~followed,
        )

    def held(self) -> BufferedRows:
        """Return the normal events that are still held back, oldest first. They remain held back."""
        events = self._recent.since(self._next)
        normal = events.flags == NORMAL
        before = np.array([self._last_learnable and events.start == self._next])
        follows = np.concatenate([before, normal])[:-1]
        return BufferedRows(events.rows[normal], ~follows[normal])

    def _habitual(self, events: EventSlice) -> Mask:
        """Return for each event whether it is abnormal and belongs to a daily habit, shape (n,)."""
        habitual = np.zeros(len(events.flags), np.bool_)
        for i in np.flatnonzero(events.flags != NORMAL):
            habitual[i] = self._habits.add(int(events.causes[i]), float(events.times[i]))
        return habitual


def far_from_incidents(flags: Flags, margin: int) -> Mask:
    """Return for each event whether it is normal, with no abnormal event within `margin` events; shape (n,).

    An unreported event is left out alone: a cause that flaps, or a first threshold that is too low, would
    otherwise stop all learning.

    >>> far_from_incidents(np.array([0, 0, ABNORMAL, 0, 0, 0], np.uint8), 1).tolist()
    [True, False, False, False, True, True]
    """
    abnormal = np.concatenate([[0], np.cumsum(flags == ABNORMAL)])
    numbers = np.arange(len(flags))
    low, high = np.maximum(numbers - margin, 0), np.minimum(numbers + margin + 1, len(flags))
    return np.asarray((abnormal[high] == abnormal[low]) & (flags == NORMAL))
