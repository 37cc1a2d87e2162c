"""Flapping: incidents with the same leading feature that come again and again."""

from __future__ import annotations

from typing import Literal

DAY_S = 86400.0

FlapState = Literal["steady", "starts", "flaps"]
"""The state of a feature after an incident: it does not flap, begins to flap, or flaps already."""


class Flapping:
    """Remembers when incidents started, by their leading feature.

    After `after` incidents within a day, the feature flaps, until a day has passed without one. Times are in
    seconds since 1970, in the stream's time. An incident that lies a day or more in the future does not
    count: the stream's clock was wrong, and was set back.

    Args:
        after: Incidents of one feature within a day that are reported.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self._starts: dict[str, list[float]] = {}
        """Starts within the last day of features that do not flap."""
        self._flapping: dict[str, float] = {}
        """Time of the last incident of each feature that flaps."""

    def add(self, feature: str, time: float) -> FlapState:
        """Add an incident; return whether its feature flaps, and whether that starts with it."""
        if self._flaps(feature, time):
            self._flapping[feature] = time
            return "flaps"
        starts = [start for start in self._starts.get(feature, []) if abs(time - start) < DAY_S]
        if len(starts) >= self.after:
            self._flapping[feature] = time
            self._starts.pop(feature)
            return "starts"
        self._starts[feature] = [*starts, time]
        return "steady"

    def extend(self, feature: str, time: float) -> None:
        """Record that the last incident of a flapping feature has lasted until `time`."""
        if feature in self._flapping:
            self._flapping[feature] = time

    def features(self, time: float) -> list[str]:
        """Return the features that flap at a time, in alphabetical order. Any thread may call it."""
        return sorted(feature for feature in tuple(self._flapping) if self._flaps(feature, time))

    def _flaps(self, feature: str, time: float) -> bool:
        return feature in self._flapping and abs(time - self._flapping[feature]) < DAY_S
