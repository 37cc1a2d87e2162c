"""Which events are old enough to be known as normal: those with no incident near them, before or after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.recent_events import ABNORMAL, RecentEvents

Flags = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReleasedEvents:
    """Events that have become old enough, in their order, each array of length n."""

    rows: NDArray[np.float32]
    """Shape (n, features)."""
    scores: NDArray[np.float32]
    versions: NDArray[np.int64]
    normal: Mask
    """Whether no abnormal event lies near."""
    breaks: Mask
    """Whether the event does not follow the normal one before it."""


class QuarantineFilter:
    """Follows a stream at a distance of `margin` events.

    Args:
        recent: The stream's last events.
        margin: Events around an abnormal one, on both sides, that are not normal.
    """

    def __init__(self, recent: RecentEvents, margin: int) -> None:
        self._recent, self._margin = recent, margin
        self._next = 0
        """Number of the first event that is not settled."""
        self._before: Flags = np.zeros(0, np.uint8)
        """Flags of the last settled events, as many as matter to those after them."""
        self._last_normal = False

    def take(self) -> ReleasedEvents | None:
        """The events that have settled since the last call; None where there are none."""
        stretch = self._recent.since(self._next)
        ready = len(stretch.rows) - self._margin
        if ready <= 0:
            return None
        lost = stretch.start > self._next
        before = np.zeros(0, np.uint8) if lost else self._before
        normal = far_from_incidents(np.concatenate([before, stretch.flags]), self._margin)
        normal = normal[len(before) : len(before) + ready]
        followed = np.concatenate([[self._last_normal and not lost], normal[:-1]])
        self._next = stretch.start + ready
        self._before = np.concatenate([before, stretch.flags[:ready]])[-self._margin :]
        self._last_normal = bool(normal[-1])
        return ReleasedEvents(
            rows=stretch.rows[:ready],
            scores=stretch.scores[:ready],
            versions=stretch.versions[:ready],
            normal=normal,
            breaks=~followed,
        )


def far_from_incidents(flags: Flags, margin: int) -> Mask:
    """Whether no abnormal event lies within `margin` events of each one, before or after; shape (n,).

    >>> far_from_incidents(np.array([0, 0, ABNORMAL, 0, 0, 0], np.uint8), 1).tolist()
    [True, False, False, False, True, True]
    """
    abnormal = np.concatenate([[0], np.cumsum(flags == ABNORMAL)])
    numbers = np.arange(len(flags))
    low, high = np.maximum(numbers - margin, 0), np.minimum(numbers + margin + 1, len(flags))
    return np.asarray(abnormal[high] == abnormal[low])
