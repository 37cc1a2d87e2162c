"""Groups events above the threshold into incidents: one notice when an incident starts, one when it ends."""

from __future__ import annotations

import hashlib

from common.protocol.alerts import Alert, Notice, NoticeKind
from common.settings import LiveSettings


class Incidents:
    """Tracks the open incident, if there is one.

    An incident starts with an event above the threshold. It ends after `settings.end_after` events in a row
    whose scores are below `settings.release` times the threshold.

    Args:
        client: The client's name in notices.
        settings: Has `release` and `end_after`.
    """

    def __init__(self, client: str, settings: LiveSettings) -> None:
        self._client = client
        self._release, self._end_after = settings.release, settings.end_after
        self.open = False
        """Whether an incident is open."""
        self.started = 0
        """Number of incidents so far."""
        self._id = ""
        self._peak: Alert | None = None
        """The alert with the highest score of the open incident; None when none is open."""
        self._peak_score = 0.0
        self._start = self._last = 0.0
        """Times of the first and the last event above the threshold."""
        self._events = self._below = 0

    def is_peak(self, score: float) -> bool:
        """Return whether an event above the threshold starts an incident or has its highest score so far."""
        return self._peak is None or score > self._peak_score

    def add_peak(self, score: float, alert: Alert) -> Notice | None:
        """Add an event above the threshold for which `is_peak` is true.

        Args:
            score: The event's score.
            alert: Its alert.

        Returns:
            A notice if an incident starts with it.
        """
        self._peak, self._peak_score = alert, score
        if self.open:
            self.add(alert.time)
            return None
        self.open = True
        self._id = _incident_id(self._client, alert)
        self._start = self._last = alert.time
        self._events, self._below = 1, 0
        self.started += 1
        return self._notice("incident_started", None, alert)

    def add(self, time: float) -> None:
        """Add an event above the threshold that is not a peak, with its time in seconds since 1970."""
        self._last, self._below = time, 0
        self._events += 1

    def add_below(self, score: float, threshold: float) -> Notice | None:
        """Add an event that is not above the threshold; return a notice if the incident ends with it."""
        if self._peak is None:
            return None
        self._below = self._below + 1 if score < threshold * self._release else 0
        return self.end() if self._below >= self._end_after else None

    def end(self) -> Notice | None:
        """End the open incident; return its notice, or None when no incident is open."""
        if self._peak is None:
            return None
        notice = self._notice("incident_ended", self._last, self._peak)
        self.open, self._peak = False, None
        return notice

    def _notice(self, kind: NoticeKind, ended: float | None, alert: Alert) -> Notice:
        return Notice(kind, self._id, self._client, self._start, ended, self._events, alert)


def _incident_id(client: str, alert: Alert) -> str:
    """Return an id that is the same when the stream is read again."""
    text = f"{client}/{alert.time!r}/{[(cause.feature, cause.value) for cause in alert.causes]!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
