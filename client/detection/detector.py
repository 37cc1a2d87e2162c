"""The detector: takes lines of a stream, returns verdicts and notices. It uses no clock and no socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.buffers.daily_habits import UNKNOWN
from client.buffers.recent_events import ABNORMAL, MAX_BATCH_EVENTS, NORMAL, UNREPORTED, RecentEvents
from client.data.streams.decoding import Decoder
from client.data.streams.refusals import InvalidEventError, NoEventError
from client.detection.adaptive_threshold import AdaptiveThreshold
from client.detection.event_window import EventWindow
from client.detection.incidents import Incident, Incidents
from client.detection.scorer import Scorer
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.protocol.alerts import Notice
from common.robust import SMALLEST
from common.settings import DataSettings, LiveSettings

MAX_SINGLE_EVENTS = 4
"""Up to this number of waiting events are scored one by one, which is faster than a batch."""

QUIET_EVENTS = 32
"""Number of events without incident after which the threshold falls, for all of them at once to save time."""


class Verdict(NamedTuple):
    """The result for one event."""

    time: float
    """Seconds since 1970: the event's timestamp, or its arrival where it has none."""
    score: float
    """NaN without a model version, and before the first whole window."""
    anomaly: bool
    """Whether the score is above the threshold."""
    version: int
    """The version that scored the event; 0 for none."""


@dataclass
class Outcome:
    """The results for some lines, each list in the order of the lines."""

    verdicts: list[Verdict] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    refused: list[InvalidEventError] = field(default_factory=list)
    """Lines that are not events."""


@dataclass(frozen=True, eq=False)
class ActiveVersion:
    """The model version that scores events."""

    manifest: Manifest
    """Its features are in the order of the detector's schema."""
    scorer: Scorer
    limit: AdaptiveThreshold
    """Changed by `Detector.step` alone."""
    adapted: tuple[str, ...] = ()
    """Ids of the incidents that end because the version is adapted to their values."""
    text: str = ""
    """The values that are normal from now on, for people."""

    @property
    def threshold(self) -> float:
        """The score above which an event is an anomaly."""
        return self.limit.value


class Detector:
    """Scores the events of one stream. One thread calls `step`; other threads read `recent` and `activate`.

    Without a version, events are stored in `recent` and not scored: a first version can be trained on them.

    Args:
        client: The client's name in notices.
        schema: The features of the stream.
        data: Which columns are not features.
        settings: When incidents end, and how many features an alert names.
    """

    def __init__(self, client: str, schema: Schema, data: DataSettings, settings: LiveSettings) -> None:
        self.schema = schema
        self.recent = RecentEvents(len(schema))
        self.refused: Counter[str] = Counter()
        """Number of lines that are not events, by reason."""
        self.alerts = 0
        """Number of events above the threshold."""
        self.incidents = Incidents(client, settings)
        self.decoder = Decoder(schema, data)
        """Reads the lines; it knows which fields are not features."""
        self._max_causes = settings.explain
        self._next: ActiveVersion | None = None
        """The version to use from the next event on; set by any thread."""
        self._active: ActiveVersion | None = None
        """The version that `step` uses; set by `step` alone, between two events."""
        self._quiet = 0
        """Events outside incidents for which the threshold has not fallen yet."""

    @property
    def active(self) -> ActiveVersion | None:
        """The version that scores events, at the latest from the next event on."""
        return self._next

    @property
    def settled(self) -> bool:
        """Whether the version that was activated last already scores events."""
        return self._next is self._active

    def activate(
        self,
        manifest: Manifest,
        threshold: float | AdaptiveThreshold,
        adapted: Sequence[str] = (),
        text: str = "",
    ) -> None:
        """Score with this version from the next event on. Any thread may call it.

        Args:
            manifest: The version, its features in the order of `schema`.
            threshold: The score above which an event is an anomaly; a number is a fixed threshold.
            adapted: Ids of open incidents that end because the version is adapted to their values.
            text: The values that are normal from now on, for people.
        """
        if not isinstance(threshold, AdaptiveThreshold):
            threshold = AdaptiveThreshold(threshold, fixed=True)
        self._next = ActiveVersion(manifest, Scorer(manifest), threshold, tuple(adapted), text)

    def end(self) -> list[Notice]:
        """End the open incidents, when the stream has ended; return their notices."""
        version = self._next
        adapted = [] if version is None or version is self._active else self._adapted(version)
        return adapted + self.incidents.end()

    def step(self, lines: Sequence[bytes], now: float) -> Outcome:
        """Score lines in order.

        Args:
            lines: Lines of the stream, of events or headers.
            now: Time of events without a timestamp, in seconds since 1970.
        """
        outcome = Outcome()
        if self._next is not self._active and self._next is not None:
            outcome.notices += self._swap(self._next)
        with np.errstate(over="ignore", invalid="ignore"):
            if len(lines) <= MAX_SINGLE_EVENTS:
                for line in lines:
                    time = self._decode(line, self.recent.count, outcome)
                    if time is not None:
                        self._score_one(now if time != time else time, outcome)
            else:
                for start in range(0, len(lines), MAX_BATCH_EVENTS):
                    self._score_batch(lines[start : start + MAX_BATCH_EVENTS], now, outcome)
        if self._quiet >= QUIET_EVENTS and self._active is not None:
            self._active.limit.quiet(self._quiet)
            self._quiet = 0
        return outcome

    def _swap(self, version: ActiveVersion) -> list[Notice]:
        version.scorer.follow(self.recent.last(version.scorer.window - 1))
        self._active, self._quiet = version, 0
        self.incidents.version_changed()
        return self._adapted(version)

    def _adapted(self, version: ActiveVersion) -> list[Notice]:
        return self.incidents.adapt(version.adapted, version.text) if version.adapted else []

    def _decode(self, line: bytes, number: int, outcome: Outcome) -> float | None:
        """Write the event `number` into the ring.

        Returns:
            The event's time, NaN if it has none; None if the line is not an event.
        """
        slot = number % self.recent.size
        try:
            time = self.decoder.decode(line, self.recent.buffer, slot * self.recent.row_bytes)
        except InvalidEventError as error:
            self.refused[error.reason] += 1
            outcome.refused.append(error)
            return None
        except NoEventError:
            return None
        return np.nan if time is None else time

    def _score_one(self, time: float, outcome: Outcome) -> None:
        recent, active = self.recent, self._active
        slot = recent.count % recent.size
        score = np.nan if active is None else active.scorer.score_one(recent.row_views[slot])
        self._judge(slot, time, score, outcome)

    def _score_batch(self, lines: Sequence[bytes], now: float, outcome: Outcome) -> None:
        recent, active = self.recent, self._active
        times: list[float] = []
        for line in lines:
            time = self._decode(line, recent.count + len(times), outcome)
            if time is not None:
                times.append(now if time != time else time)
        first = recent.count % recent.size
        parts = [(first, min(first + len(times), recent.size)), (0, first + len(times) - recent.size)]
        at = 0
        for start, end in parts:  # the second part is not empty if the batch exceeds the end of the ring
            if end <= start:
                continue
            rows, part = recent.rows[start:end], times[at : at + end - start]
            scores = (
                np.full(len(rows), np.nan, np.float32) if active is None else active.scorer.score_many(rows)
            )
            if active is not None and not self.incidents.open and float(scores.max()) <= active.limit.value:
                self._record_quiet(slice(start, end), part, scores, active.scorer.version, outcome)
            else:
                for slot, time, score in zip(range(start, end), part, scores.tolist(), strict=True):
                    self._judge(slot, time, score, outcome)
            at += end - start

    def _record_quiet(
        self, slots: slice, times: list[float], scores: NDArray[np.float32], version: int, outcome: Outcome
    ) -> None:
        """Count events without incident, all of which are at or below the threshold, at once."""
        recent = self.recent
        recent.scores[slots], recent.times[slots] = scores, times
        recent.versions[slots], recent.flags[slots] = version, NORMAL
        recent.count += len(times)
        self._quiet += len(times)
        self.incidents.skip()
        outcome.verdicts += [
            Verdict(time, score, False, version) for time, score in zip(times, scores.tolist(), strict=True)
        ]

    def _judge(self, slot: int, time: float, score: float, outcome: Outcome) -> None:
        """Compare a score with the threshold, and count the event in the ring."""
        recent, active = self.recent, self._active
        version, flag, anomaly = 0, NORMAL, False
        if active is not None:
            version = active.scorer.version
            anomaly = score > active.limit.value
            if anomaly or self.incidents.open:
                flag = self._add_to_incidents(active, slot, time, score, outcome)
            elif score == score:
                self._quiet += 1
                if self.incidents.above:
                    self.incidents.skip()
        recent.scores[slot] = score
        recent.times[slot] = time
        recent.versions[slot] = version
        recent.flags[slot] = flag
        recent.count += 1
        outcome.verdicts.append(Verdict(time, score, anomaly, version))

    def _add_to_incidents(
        self, active: ActiveVersion, slot: int, time: float, score: float, outcome: Outcome
    ) -> int:
        """Add an event to the incidents, and raise the threshold for each that starts; return its flag."""
        incidents, threshold = self.incidents, active.limit.value
        if score > threshold:
            self.alerts += 1
        before = incidents.open
        event = EventWindow(
            self.schema.features, self.recent, active.scorer, slot, self.recent.count, time, score,
            active.limit, self._max_causes,
        )  # fmt: skip
        outcome.notices += incidents.add(event)
        for incident in incidents.begun:
            incident.limit = active.limit.incident_started(incident.feature)
        for incident in incidents.ended:
            peak = incident.peak_score / max(incident.threshold, SMALLEST)
            active.limit.incident_ended(incident.feature, peak)
        incidents.begun.clear()
        incidents.ended.clear()
        if incidents.drifted:
            active.limit.drifted()
            incidents.drifted = False
        concerned = (*before, *incidents.open)
        self.recent.causes[slot] = UNKNOWN
        if concerned:
            self._record_cause(slot, concerned[-1], started=concerned[-1] not in before)
        if not concerned and not incidents.above:  # below the higher threshold of its leading feature
            self._quiet += 1
            return NORMAL
        if concerned:
            return ABNORMAL if any(incident.reported for incident in concerned) else UNREPORTED
        return UNREPORTED if event.doubt > 0 else ABNORMAL  # else a threshold that is too low would stay so

    def _record_cause(self, slot: int, incident: Incident, started: bool) -> None:
        """Record the leading feature of an event's incident, and of the events with which it has started."""
        cause = self.schema.features.index(incident.feature)
        for back in range(incident.events if started else 1):
            self.recent.causes[(slot - back) % self.recent.size] = cause
