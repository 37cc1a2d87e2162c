"""Daily habits: unusual events of one cause that come at the same time of day, such as those of a backup."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from common.formats.files import write_atomic
from common.model.schema import Schema

log = logging.getLogger(__name__)

FILE = "habits.json"

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
        self._changed = False

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
            self._changed = True
            slots.intersection_update(range(slot - kept, slot + kept + 1))  # the clock may be set back
        if len(slots) > LARGEST_SHARE * kept:
            return False
        earlier = sum(
            any(other in slots for other in range(slot - day * DAY - NEAR, slot - day * DAY + NEAR + 1))
            for day in range(1, self._days + SPARE_DAYS)
        )
        return earlier >= self._days - 1

    def load(self, folder: Path, schema: Schema) -> None:
        """Go on from what an earlier process saved in a state folder, if it had the same features."""
        try:
            saved = json.loads((folder / FILE).read_bytes())
            if saved["features"] == list(schema.features):
                self._slots = {int(cause): set(map(int, slots)) for cause, slots in saved["slots"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("habits not read file=%s reason=%s", folder / FILE, error)

    def save(self, folder: Path, schema: Schema) -> None:
        """Write what has changed since the last time to a state folder.

        Raises:
            OSError: it cannot be written.
        """
        if self._changed:
            slots = {str(cause): sorted(slots) for cause, slots in self._slots.items()}
            content = {"features": schema.features, "slots": slots}
            write_atomic(folder / FILE, json.dumps(content).encode())
            self._changed = False
