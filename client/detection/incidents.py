"""Groups events above the threshold into incidents, one for each cause, and makes their notices."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from client.detection.flapping import Flapping
from client.detection.scored_event import ScoredEvent
from client.detection.start_rule import events_to_start, is_drift
from common.protocol.alerts import Alert, Notice, NoticeKind
from common.settings import LiveSettings

SECOND_MARGIN = 1.5
"""Multiple of the threshold, and of normal windows' scores masked alike, that starts a second incident."""
MAX_OPEN = 3
"""Number of incidents that may be open at once; further causes belong to these."""
REGIME_SHARE = 0.25
"""Share of `live.adapt_after_s` after which a lasting incident counts as a changed regime."""
MIN_LASTING_EVENTS = 10
"""Smallest number of alerts of a lasting incident: two alerts around a gap in the stream are not one.

The time between two alerts counts for at most this part of `live.adapt_after_s`: the clock may jump."""


@dataclass
class Incident:
    """An open incident."""

    id: str
    feature: str
    """The leading feature: the one with the largest share of the error when it started."""
    position: int
    """The position of the leading feature."""
    features: tuple[int, ...]
    """The features that explain it, by position. They are masked to look for other causes."""
    first: int
    """Number of its first event in the stream."""
    start: float
    """Time of its first event, in seconds since 1970."""
    last: float
    """Time of its last event above the threshold, in seconds since 1970."""
    peak: Alert
    """The alert with the highest score of this incident."""
    peak_score: float
    """The part of the peak's score that other incidents do not explain."""
    reported: bool
    """Whether its start was reported: while its leading feature flaps, only if it becomes much worse."""
    events: int
    """Number of events above the threshold."""
    threshold: float
    """The threshold at its start."""
    value: float
    """The value of its leading feature, if all its events have the same; else NaN."""
    limit: float | None = None
    """The threshold that it is compared with; None: the one of its leading feature."""
    lasted_s: float = 0.0
    """Seconds from its first to its last event above the threshold, without jumps of the stream's clock."""
    below: int = field(default=0, repr=False)
    """Events in a row at or below the release level."""
    regime_reported: bool = False
    """Whether it has had a `regime_changed` notice."""


class Incidents:
    """Tracks the open incidents of a stream.

    An incident starts with `settings.start_after` events in a row above the threshold; if that is not set,
    with one event clearly above the threshold, or several in a row (`events_to_start`). It ends after
    `settings.end_after` events in a row at or below `settings.release` times the threshold. While one is
    open, the windows are also scored with the features that explain it masked: if this score is above the
    threshold too, another incident with another cause starts. Features that become abnormal within a window's
    length of an incident's start become part of it, because one fault reaches features one after the other.

    Args:
        client: The client's name in notices.
        settings: When incidents start, end, flap and last.
    """

    def __init__(self, client: str, settings: LiveSettings) -> None:
        self._client, self._settings = client, settings
        self.open: tuple[Incident, ...] = ()
        """Open incidents, oldest first; replaced, never changed, so that any thread may iterate over it."""
        self.started = 0
        """Number of incidents whose start was reported."""
        self.begun: list[Incident] = []
        """Incidents whose start was reported; whoever reads them clears the list."""
        self.ended: list[Incident] = []
        """Reported incidents that have ended; whoever reads them clears the list."""
        self.flapping = Flapping(settings.flap_after)
        self.above = 0
        """Events in a row above the threshold that belong to no incident."""
        self.drifted = False
        """Whether a run of events has been taken for drift; whoever reads it resets it."""
        self._usual: tuple[frozenset[int], float] = (frozenset(), 0.0)
        """The masked features, and the highest score of normal windows with these masked."""

    def add(self, event: ScoredEvent) -> list[Notice]:
        """Add an event that is above the threshold, or that comes while an incident is open.

        A score of NaN, which is no verdict, changes nothing.
        """
        if event.score != event.score:
            return []
        notices: list[Notice] = []
        for incident in self.open:
            self._continue(incident, event)
        for incident in self.open:
            if incident.below >= self._settings.end_after:
                notices += self._close(incident, "incident_ended", None)
        notices += self._start(event)
        return notices + self._worse_than_flapping() + self._changed_regimes()

    def skip(self) -> None:
        """Record an event at or below the threshold while no incident is open."""
        self.above = 0

    def version_changed(self) -> None:
        """Forget the scores of the version before."""
        self._usual = (frozenset(), 0.0)
        for incident in self.open:
            incident.limit = None

    def adapt(self, ids: Collection[str], text: str) -> list[Notice]:
        """End incidents because the detector has adapted to their values; return their notices.

        Args:
            ids: Ids of incidents; those that have ended meanwhile are skipped.
            text: What the detector has changed, for people.
        """
        chosen = [incident for incident in self.open if incident.id in ids]
        return [notice for incident in chosen for notice in self._close(incident, "adapted", text)]

    def end(self) -> list[Notice]:
        """End all incidents; return their notices."""
        return [notice for incident in self.open for notice in self._close(incident, "incident_ended", None)]

    def lasting(self, share: float = 1.0) -> tuple[Incident, ...]:
        """Return the open incidents that have lasted for a share of `live.adapt_after_s`."""
        after = self._settings.adapt_after_s
        if after is None:
            return ()
        return tuple(
            incident
            for incident in self.open
            if incident.lasted_s >= share * after and incident.events >= MIN_LASTING_EVENTS
        )

    def _continue(self, incident: Incident, event: ScoredEvent) -> None:
        """Add an event to an incident, with the part of the score that the other incidents do not explain.

        The features of older incidents are masked, as they were when the incident started. The features of
        newer ones are not, because a model with many masked inputs reconstructs the rest badly. Instead their
        errors are left out.
        """
        at = self.open.index(incident)
        older, newer = _features(self.open[:at]), _features(self.open[at + 1 :])
        threshold = event.threshold_of(incident.feature) if incident.limit is None else incident.limit
        score, release = event.score, threshold * self._settings.release
        if score > release and (older or newer):
            score = event.score_of_others(newer, older)
        if not score > threshold:
            incident.below = incident.below + 1 if score <= release else 0
            return
        after_s = self._settings.adapt_after_s or math.inf
        incident.lasted_s += min(max(event.time - incident.last, 0.0), after_s / MIN_LASTING_EVENTS)
        incident.below, incident.last = 0, event.time
        incident.events += 1
        if event.value_of(incident.position) != incident.value:
            incident.value = math.nan
        if score > incident.peak_score:
            incident.peak, incident.peak_score = event.explain_without(older | newer).alert, score

    def _start(self, event: ScoredEvent) -> list[Notice]:
        """Start an incident if the score without the features of open incidents is above its limit."""
        known = _features(self.open)
        limit = self._limit(event, known)
        newest = self.open[-1] if self.open else None
        if newest is not None and event.number - newest.first == event.overlap:
            self._narrow(newest, event, limit)
        score = event.score_without(known) if known and event.score > limit else event.score
        if not score > limit:
            self.above = 0
            return []
        if newest is not None and event.number - newest.first < event.overlap:
            leading = event.explain_without(known).features
            newest.features = (*newest.features, *(i for i in leading if i not in newest.features))
            return []
        self.above += 1
        wanted = events_to_start(self._settings, score, limit, event.overlap, event.doubt)
        if self.above < wanted or len(self.open) >= MAX_OPEN:
            return []
        if is_drift(self._settings, score, event.level_before(self.above), event.doubt):
            self.above, self.drifted = 0, True
            return []
        alert, features = event.explain_without(known)
        if not features or not (alert.score or 0.0) > event.threshold_of(alert.causes[0].feature):
            self.above = 0
            return []
        return self._begin(event, alert, features)

    def _limit(self, event: ScoredEvent, known: frozenset[int]) -> float:
        """Return the score above which an event starts an incident, with the features `known` masked.

        The fewer inputs are left, the worse the model reconstructs them, and the more their scores vary. The
        latest normal windows, masked alike, show how high such scores are.
        """
        if not known:
            return event.threshold
        if not event.score > SECOND_MARGIN * event.threshold:
            return SECOND_MARGIN * event.threshold
        if self._usual[0] != known:
            self._usual = known, event.usual_without(known)
        return SECOND_MARGIN * max(event.threshold, self._usual[1])

    def _narrow(self, incident: Incident, event: ScoredEvent, limit: float) -> None:
        """Reduce an incident to the features that explain a window that it fills, if these are enough.

        While the incident filled only a part of the window, other features had errors too, and were added.
        """
        older = _features(self.open[:-1])
        if not event.score > limit:
            return
        features = event.explain_without(older).features
        if not event.score_without(older.union(features)) > limit:
            incident.features = features

    def _begin(self, event: ScoredEvent, alert: Alert, features: tuple[int, ...]) -> list[Notice]:
        leading = alert.causes[0].feature
        state = self.flapping.add(leading, event.time)
        incident = Incident(
            id=_incident_id(self._client, alert), feature=leading, position=features[0], features=features,
            first=event.number, start=event.time, last=event.time, peak=alert, peak_score=alert.score or 0.0,
            reported=False, events=self.above, threshold=event.threshold, value=event.value_of(features[0]),
        )  # fmt: skip
        self.above = 0
        self.open = (*self.open, incident)
        if state == "steady":
            return [self._report(incident)]
        if state == "starts":
            count = self.flapping.after + 1
            text = (
                f"{leading} flaps: incident {count} within a day; the next ones that it leads are "
                "not reported until a day has passed without one, unless one is much worse"
            )
            return [self._notice("flapping", incident, text)]
        return []

    def _report(self, incident: Incident, text: str | None = None) -> Notice:
        """Return the notice of an incident's start."""
        incident.reported = True
        self.started += 1
        self.begun.append(incident)
        return self._notice("incident_started", incident, text)

    def _worse_than_flapping(self) -> list[Notice]:
        """Return a notice for each unreported incident that is much worse than those that flapped."""
        notices = []
        for incident in self.open:
            leading, events, score = incident.feature, incident.events, incident.peak_score
            if not incident.reported and self.flapping.is_worse(leading, events, score):
                text = f"{leading} flaps, but this incident is much worse than those before: {events} alerts"
                notices.append(self._report(incident, text))
        return notices

    def _close(self, incident: Incident, kind: NoticeKind, text: str | None) -> list[Notice]:
        self.open = tuple(other for other in self.open if other is not incident)
        if incident.reported and kind == "incident_ended":
            self.ended.append(incident)
        self.flapping.ended(incident.feature, incident.last, incident.events, incident.peak_score)
        if not incident.reported and not incident.regime_reported and kind == "incident_ended":
            return []
        return [self._notice(kind, incident, text, ended=incident.last)]

    def _changed_regimes(self) -> list[Notice]:
        """Return a notice for each incident that has lasted long enough to count as a changed regime."""
        notices = []
        for incident in self.lasting(REGIME_SHARE) if self.open else ():
            if incident.regime_reported:
                continue
            incident.regime_reported = True
            hours, limit = incident.lasted_s / 3600, (self._settings.adapt_after_s or 0) / 3600
            state = "this looks like a new normal state"
            if incident.value == incident.value:
                state = f"it stands at {incident.value:.6g}, as a stuck sensor does, or a new normal state"
            text = (
                f"{incident.feature} has been unusual for {hours:.3g} h: {state}. "
                f"After {limit:.3g} h it counts as normal, or at once with 'flockwatch client accept'"
            )
            notices.append(self._notice("regime_changed", incident, text))
        return notices

    def _notice(
        self, kind: NoticeKind, incident: Incident, text: str | None = None, ended: float | None = None
    ) -> Notice:
        return Notice(
            kind, incident.id, self._client, incident.start, ended, incident.events, incident.peak, text
        )  # fmt: skip


def _features(incidents: Iterable[Incident]) -> frozenset[int]:
    """Return the features that explain these incidents, by position."""
    return frozenset(i for incident in incidents for i in incident.features)


def _incident_id(client: str, alert: Alert) -> str:
    """Return an id that is the same when the stream is read again."""
    text = f"{client}/{alert.time!r}/{[(cause.feature, cause.value) for cause in alert.causes]!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
