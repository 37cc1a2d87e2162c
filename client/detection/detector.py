"""The live loop's core: lines of a stream and the time in, verdicts and notices out. No clock, no socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from client.data.decoding import Decoder, HeaderLine, InvalidEventError
from client.data.recent_events import ABNORMAL, MAX_BATCH_EVENTS, NORMAL, RecentEvents
from client.detection.incidents import Incidents, causes
from client.detection.scorer import Scorer
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.protocol.alerts import Alert, Notice
from common.settings import DataSettings, LiveSettings

MAX_SINGLE_EVENTS = 4
"""Up to so many waiting events are scored one by one: faster than together."""


class Verdict(NamedTuple):
    """What was found about one event."""

    time: float
    """Seconds since 1970: the event's own time, or when it came."""
    score: float
    """NaN while there is no version, or no whole window."""
    anomaly: bool
    version: int
    """Which version scored it; 0: none did."""


@dataclass
class Outcome:
    """What came of some lines: a verdict for each event, in order, and what there is to tell."""

    verdicts: list[Verdict] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    refused: list[InvalidEventError] = field(default_factory=list)


@dataclass
class ActiveVersion:
    """A version at work: what the loop takes up between two events, at once."""

    scorer: Scorer
    threshold: float


class Detector:
    """Scores a stream of one schema. Called by one thread; the others read `recent` and set `live`.

    Without a version events are kept and not scored: a first one can be trained on them.

    Args:
        client: Its name in notices.
        schema: The features of the stream.
        data: Which columns are no features.
        settings: When incidents end, and how many features they name.
    """

    def __init__(self, client: str, schema: Schema, data: DataSettings, settings: LiveSettings) -> None:
        self.schema = schema
        self.recent = RecentEvents(len(schema))
        self.refused: Counter[str] = Counter()
        """Lines that were no events, by reason."""
        self.alerts = 0
        self.incidents = Incidents(client, settings)
        self._decoder = Decoder(schema, data)
        self._explain = settings.explain
        self._given: ActiveVersion | None = None
        """Set by any thread."""
        self._live: ActiveVersion | None = None
        """Followed by the loop alone, between two events."""

    @property
    def live(self) -> ActiveVersion | None:
        """The version at work, or the one that is about to be."""
        return self._given

    def take(self, manifest: Manifest, threshold: float) -> None:
        """Score by this version from the next event on. Any thread may call it."""
        self._given = ActiveVersion(Scorer(manifest), threshold)

    def step(self, lines: Sequence[bytes], now: float) -> Outcome:
        """Score at most `MAX_BATCH_EVENTS` lines in order; `now` is the time of those without a timestamp."""
        outcome = Outcome()
        given = self._given
        if given is not None and given is not self._live:
            self._swap(given)
        with np.errstate(over="ignore", invalid="ignore"):
            if len(lines) <= MAX_SINGLE_EVENTS:
                for line in lines:
                    time = self._decode(line, self.recent.count, outcome)
                    if time is not None:
                        self._one(now if time != time else time, outcome)
            else:
                for start in range(0, len(lines), MAX_BATCH_EVENTS):
                    self._many(lines[start : start + MAX_BATCH_EVENTS], now, outcome)
        return outcome

    def _swap(self, new: ActiveVersion) -> None:
        new.scorer.follow(self.recent.last(new.scorer.window - 1))
        self._live = new

    def _decode(self, line: bytes, number: int, outcome: Outcome) -> float | None:
        """Read one line into the ring; its time, NaN where it has none, or None where it is no event."""
        slot = number % self.recent.size
        try:
            time = self._decoder.decode(line, self.recent.buffer, slot * self.recent.row_bytes)
        except InvalidEventError as error:
            self.refused[error.reason] += 1
            outcome.refused.append(error)
            return None
        except HeaderLine:
            return None
        return np.nan if time is None else time

    def _one(self, time: float, outcome: Outcome) -> None:
        recent, live = self.recent, self._live
        slot = recent.count % recent.size
        score = np.nan if live is None else live.scorer.score_one(recent.row_views[slot])
        self._conclude(slot, time, score, outcome)

    def _many(self, lines: Sequence[bytes], now: float, outcome: Outcome) -> None:
        recent, live = self.recent, self._live
        times: list[float] = []
        for line in lines:
            time = self._decode(line, recent.count + len(times), outcome)
            if time is not None:
                times.append(now if time != time else time)
        first = recent.count % recent.size
        parts = [(first, min(first + len(times), recent.size)), (0, first + len(times) - recent.size)]
        at = 0
        for start, end in parts:
            if end <= start:
                continue
            rows = recent.rows[start:end]
            scores = [np.nan] * len(rows) if live is None else live.scorer.score_many(rows).tolist()
            for slot, score in enumerate(scores, start):
                self._conclude(slot, times[at], score, outcome)
                at += 1

    def _conclude(self, slot: int, time: float, score: float, outcome: Outcome) -> None:
        """Judge a scored event, and let the keeper see it."""
        recent, live, incidents = self.recent, self._live, self.incidents
        version, flag, anomaly = 0, NORMAL, False
        if live is not None:
            version = live.scorer.version
            threshold = live.threshold
            anomaly = score > threshold
            if anomaly or incidents.open:
                flag = ABNORMAL
                notice = self._judge(live, slot, time, score, threshold, anomaly)
                if notice is not None:
                    outcome.notices.append(notice)
        recent.scores[slot] = score
        recent.times[slot] = time
        recent.versions[slot] = version
        recent.flags[slot] = flag
        recent.count += 1
        outcome.verdicts.append(Verdict(time, score, anomaly, version))

    def _judge(
        self, live: ActiveVersion, slot: int, time: float, score: float, threshold: float, anomaly: bool
    ) -> Notice | None:
        if not anomaly:
            return self.incidents.below(score, threshold)
        self.alerts += 1
        return self.incidents.above(time, score, lambda: self._alert(live, slot, time, score, threshold))

    def _alert(self, live: ActiveVersion, slot: int, time: float, score: float, threshold: float) -> Alert:
        recent, window = self.recent, live.scorer.window
        chosen = np.arange(slot - window + 1, slot + 1) % recent.size
        why = live.scorer.explain(recent.rows[chosen])
        named = causes(self.schema.features, recent.rows[slot], why, self._explain)
        return Alert(time, score, threshold, live.scorer.version, named)
