"""Flapping: incidents with the same leading feature that come again and again."""

from __future__ import annotations

from typing import Literal

DAY_S = 86400.0
WORSE = 3.0
"""Multiple of the alerts, or of the score, of the incidents so far that is much worse than these."""
MIN_WORSE_EVENTS = 10
"""Smallest number of alerts that are many: the incidents so far may have had one each."""

FlapState = Literal["steady", "starts", "flaps"]
"""The state of a feature after an incident: it does not flap, begins to flap, or flaps already."""


class Flapping:
    """Remembers when incidents started, by their leading feature.

    After `after` incidents within a day, the feature flaps, until a day has passed without one. How bad these
    were is remembered too: one that is much worse is no flapping. Times are in seconds since 1970, in the
    stream's time. An incident that lies a day or more in the future does not count: the stream's clock was
    wrong, and was set back.

    Args:
        after: Incidents of one feature within a day that are reported.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self._starts: dict[str, list[float]] = {}
        """Starts within the last day of features that do not flap."""
        self._flapping: dict[str, float] = {}
        """Time of the last incident of each feature that flaps."""
        self._worst: dict[str, tuple[int, float]] = {}
        """The most alerts and the highest score of a feature's incidents that have ended, for a day."""

    def add(self, feature: str, time: float) -> FlapState:
        """Add an incident; return whether its feature flaps, and whether that starts with it."""
        if self._flaps(feature, time):
            self._flapping[feature] = time
            return "flaps"
        self._flapping.pop(feature, None)
        starts = [start for start in self._starts.get(feature, []) if abs(time - start) < DAY_S]
        if not starts:
            self._worst.pop(feature, None)
        if len(starts) >= self.after:
            self._flapping[feature] = time
            self._starts.pop(feature)
            return "starts"
        self._starts[feature] = [*starts, time]
        return "steady"

    def ended(self, feature: str, time: float, events: int, score: float) -> None:
        """Record that an incident has ended; its feature, if it flaps, does so from then on for a day.

        Args:
            feature: Its leading feature.
            time: When it ended.
            events: Number of its alerts.
            score: The highest of their scores.
        """
        most, highest = self._worst.get(feature, (0, 0.0))
        self._worst[feature] = max(most, events), max(highest, score)
        if feature in self._flapping:
            self._flapping[feature] = time

    def is_worse(self, feature: str, events: int, score: float) -> bool:
        """Return whether an incident is much worse than the others that its leading feature has had."""
        if feature not in self._worst:
            return False
        most, highest = self._worst[feature]
        return events >= max(WORSE * most, MIN_WORSE_EVENTS) or score >= WORSE * highest

    def features(self, time: float) -> list[str]:
        """Return the features that flap at a time, in alphabetical order. Any thread may call it."""
        return sorted(feature for feature in tuple(self._flapping) if self._flaps(feature, time))

    def _flaps(self, feature: str, time: float) -> bool:
        return feature in self._flapping and abs(time - self._flapping[feature]) < DAY_S
