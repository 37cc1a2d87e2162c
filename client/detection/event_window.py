"""The window of an event among the recent ones: its score and its explanation with some features masked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.buffers.recent_events import NORMAL, RecentEvents
from client.detection.adaptive_threshold import AdaptiveThreshold
from client.detection.scored_event import Explained
from client.detection.scorer import Scorer
from client.detection.start_rule import LEVEL_EVENTS, level
from common.protocol.alerts import Alert, Cause

EXPLAINING_SHARE = 0.8
"""Share of the error that the features that explain an alert have together."""
MAX_EXPLAINING, MAX_EXPLAINING_PART = 5, 1 / 3
"""Largest number of features that explain an alert, and largest share of all features."""

USUAL_WINDOWS = 128
"""Number of the latest events whose scores with masked features are compared with those of an incident."""


@dataclass(frozen=True, eq=False)
class EventWindow:
    """An event with the window that it ends, in the ring of recent events (a `ScoredEvent`).

    It is valid until the next event is counted.

    Overflow is expected: call the methods inside `np.errstate(over="ignore", invalid="ignore")`.
    """

    features: tuple[str, ...]
    """Names of the features."""
    recent: RecentEvents
    scorer: Scorer
    slot: int
    """Its slot in the ring."""
    number: int
    time: float
    score: float
    limit: AdaptiveThreshold
    max_causes: int
    """Number of features that an alert names."""

    @property
    def threshold(self) -> float:
        """The threshold for it."""
        return self.limit.value

    @property
    def doubt(self) -> float:
        """How little evidence there is for the threshold, 0 to 1."""
        return self.limit.doubt

    def value_of(self, feature: int) -> float:
        """Return its value of the feature at this position, in the feature's own unit."""
        return float(self.recent.rows[self.slot, feature])

    def threshold_of(self, feature: str) -> float:
        """Return the threshold for it in an incident that a feature leads."""
        return self.limit.of_cause(feature)

    @property
    def overlap(self) -> int:
        """Number of scores that an event is part of."""
        return self.scorer.overlap

    def level_before(self, events: int) -> float:
        """Return the level of this version's scores before the last `events` events, itself included."""
        before = self.recent.since(self.number - events + 1 - LEVEL_EVENTS)
        scores, versions = before.scores[:LEVEL_EVENTS], before.versions[:LEVEL_EVENTS]
        return level(scores[versions == self.scorer.version])

    def score_without(self, features: Collection[int]) -> float:
        """Return the score of the window with these features masked; NaN if all its values are masked."""
        return self.scorer.score_window(self._window(features))

    def usual_without(self, features: Collection[int]) -> float:
        """Return the highest score of the latest normal windows with these features masked; 0 without any."""
        window = self.scorer.window
        events = self.recent.since(self.number - USUAL_WINDOWS - window + 1)
        ends = np.flatnonzero(events.flags[window - 1 :] == NORMAL) + window - 1
        rows = events.rows
        rows[:, list(features)] = np.nan
        scores = self.scorer.score_windows(rows[ends[:, None] + np.arange(1 - window, 1)])
        return float(np.max(scores[np.isfinite(scores)], initial=0.0))

    def score_of_others(self, features: Collection[int], masked: Collection[int]) -> float:
        """Return the score without the errors of some features, and with other features masked."""
        return self.scorer.score_of_others(self._window(masked), features)

    def explain_without(self, features: Collection[int]) -> Explained:
        """Return the alert with these features masked, and the features that explain it.

        These are the features with the largest shares of the error, which have `EXPLAINING_SHARE` together.
        """
        window = self._window(features)
        why = self.scorer.explain(window)
        present = (why.value == why.value) & (why.share > 0)  # a feature that is missing explains nothing
        order = [i for i in why.ordered(self.features) if present[i]]
        causes = tuple(
            Cause(self.features[i], *map(float, (why.share[i], why.value[i], why.expected[i])))
            for i in order[: self.max_causes]
        )
        score = self.scorer.score_window(window) if features else self.score
        before = np.cumsum(why.share[order]) - why.share[order]
        explaining = tuple(i for i, share in zip(order, before, strict=True) if share < EXPLAINING_SHARE)
        most = max(1, min(MAX_EXPLAINING, int(MAX_EXPLAINING_PART * len(self.features))))
        alert = Alert(self.time, score, self.threshold, self.scorer.version, causes)
        return Explained(alert, explaining[:most])

    def _window(self, masked: Collection[int]) -> NDArray[np.float32]:
        """Return a copy of the window that the event ends, shape (window, features)."""
        slots = np.arange(self.slot - self.scorer.window + 1, self.slot + 1) % self.recent.size
        window = self.recent.rows[slots]
        if masked:
            window[:, list(masked)] = np.nan
        return window
