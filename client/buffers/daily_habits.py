"""Daily habits: unusual events of one cause that come at the same time of day, such as those of a backup."""

from __future__ import annotations

import math

UNKNOWN, BELOW = -1, -2
"""Causes of unusual events that no feature leads: outside incidents, and at or below the threshold."""

SLOT_S = 1800.0
DAY = round(86400 / SLOT_S)
NEAR = 4
"""Half-hour slots before and after a time of day that are about the same time."""
SPARE_DAYS = 1
"""Days on which a habit may stay away, or not be unusual enough."""
LARGEST_SHARE = 0.25
"""Largest share of the slots: what is unusual for longer is no daily habit, but a lasting change."""


class DailyHabits:
    """Remembers when unusual events came, by their cause.

    An event belongs to a habit if unusual events of its cause have come at about its time of day, within two
    hours, on `days` days: its own, and the others among the days just before, of which one may be missing.
    Times are in seconds since 1970, in the stream's time.

    Args:
        days: Number of days, at least 2; None: there are no habits.

    >>> habits = DailyHabits(3)
    >>> [habits.add(7, 86400 * day + 10800 + 600 * day) for day in range(4)]
    [False, False, True, True]
    """

    def __init__(self, days: int | None) -> None:
        self._days = days
        self._slots: dict[int, set[int]] = {}
        """The half-hour slots in which unusual events came, by cause."""

    def add(self, cause: int, time: float) -> bool:
        """Add an unusual event; return whether it belongs to a habit. To add it again changes nothing.

        Args:
            cause: Position of the feature that leads its incident; or `UNKNOWN` or `BELOW`.
            time: Its time.
        """
        if self._days is None or not math.isfinite(time):
            return False
        slot, kept = int(time // SLOT_S), (self._days + SPARE_DAYS) * DAY
        slots = self._slots.setdefault(cause, set())
        if slot not in slots:
            slots.add(slot)
            slots.intersection_update(range(slot - kept, slot + kept + 1))  # the clock may be set back
        if len(slots) > LARGEST_SHARE * kept:
            return False
        earlier = sum(
            any(other in slots for other in range(slot - day * DAY - NEAR, slot - day * DAY + NEAR + 1))
            for day in range(1, self._days + SPARE_DAYS)
        )
        return earlier >= self._days - 1
