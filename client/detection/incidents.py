"""Alerts that explain themselves: scores above the threshold, grouped so that a fault is one notice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client.detection.scorer import Explanation
from common.protocol.alerts import Alert, Cause, Notice, NoticeKind
from common.settings import LiveSettings


def causes(
    features: tuple[str, ...], row: NDArray[np.float32], why: Explanation, most: int
) -> tuple[Cause, ...]:
    """The `most` features with the largest shares of the error, largest first.

    Args:
        features: Names, as many as `row`, shape (features,), has values.
        row: The event that was scored.
        why: Of its window.
        most: Features to name.
    """
    order = np.argsort(why.share, kind="stable")[::-1][:most]
    return tuple(
        Cause(features[i], float(why.share[i]), float(row[i]), float(why.expected[i])) for i in order
    )


class Incidents:
    """Groups alerts: an incident opens above the threshold and ends after a while well below it."""

    def __init__(self, client: str, settings: LiveSettings) -> None:
        self._client = client
        self._release, self._end_after = settings.release, settings.end_after
        self._id = ""
        self.started = 0
        """Incidents until now."""
        self._began = self._last = 0.0
        self._events = self._below = 0
        self._peak: Alert | None = None
        self._peak_score = 0.0

    @property
    def open(self) -> bool:
        """Whether an incident is going on."""
        return self._peak is not None

    def above(self, time: float, score: float, alert: Callable[[], Alert]) -> Notice | None:
        """Take an event above the threshold; a notice if an incident starts with it.

        Args:
            time: Of the event, seconds since 1970.
            score: Of the event.
            alert: Explains it; asked only where it matters, for the first and for a new peak.
        """
        self._last, self._below = time, 0
        self._events += 1
        if self._peak is None:
            self._peak, self._peak_score = alert(), score
            self._id = _identity(self._client, self._peak)
            self._began, self._events = time, 1
            self.started += 1
            return self._notice("incident_started", None, self._peak)
        if score > self._peak_score:
            self._peak, self._peak_score = alert(), score
        return None

    def below(self, score: float, threshold: float) -> Notice | None:
        """Take an event that is not above the threshold; a notice if the incident ends with it."""
        if self._peak is None:
            return None
        self._below = self._below + 1 if score < threshold * self._release else 0
        return self.end() if self._below >= self._end_after else None

    def end(self) -> Notice | None:
        """End the incident that is going on, if there is one."""
        if self._peak is None:
            return None
        notice = self._notice("incident_ended", self._last, self._peak)
        self._peak = None
        return notice

    def _notice(self, kind: NoticeKind, ended: float | None, alert: Alert) -> Notice:
        return Notice(kind, self._id, self._client, self._began, ended, self._events, alert)


def _identity(client: str, alert: Alert) -> str:
    text = f"{client}/{alert.time!r}/{[(c.feature, c.value) for c in alert.causes]!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
