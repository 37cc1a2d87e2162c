"""The interface through which `Incidents` reads an event: its score and the features that explain it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from common.protocol.alerts import Alert


class Explained(NamedTuple):
    """An alert, and the features that explain most of its error, by position, the most important first."""

    alert: Alert
    features: tuple[int, ...]


class ScoredEvent(Protocol):
    """An event with its window. Its methods score the window again: they are for events near incidents."""

    @property
    def number(self) -> int:
        """Number of the event in the stream."""
        ...

    @property
    def time(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def score(self) -> float:
        """The score, with no feature masked."""
        ...

    @property
    def threshold(self) -> float:
        """The threshold for it."""
        ...

    @property
    def doubt(self) -> float:
        """How little evidence there is for the threshold, 0 to 1."""
        ...

    def value_of(self, feature: int) -> float:
        """Return its value of the feature at this position, in the feature's own unit."""
        ...

    def threshold_of(self, feature: str) -> float:
        """Return the threshold for it in an incident that a feature leads."""
        ...

    @property
    def overlap(self) -> int:
        """Number of scores that an event is part of, as windows overlap."""
        ...

    def level_before(self, events: int) -> float:
        """Return the usual score of those before the last `events` events, itself included; 0 if unknown."""
        ...

    def score_without(self, features: Collection[int]) -> float:
        """Return the score of the window with these features masked; NaN if nothing is left."""
        ...

    def usual_without(self, features: Collection[int]) -> float:
        """Return the highest score of the latest normal windows with these features masked; 0 without any."""
        ...

    def score_of_others(self, features: Collection[int], masked: Collection[int]) -> float:
        """Return the score without the errors of some features, and with other features masked."""
        ...

    def explain_without(self, features: Collection[int]) -> Explained:
        """Return the alert and its explanation with these features masked."""
        ...
