"""Watches the stream itself: sensors without values or new values, no events, lines that are refused."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.buffers.recent_events import RecentEvents
from client.service.value_runs import Run, ValueRuns
from common.protocol.alerts import MAX_NOTICE_TEXT, Notice, NoticeKind
from common.settings import LiveSettings

MIN_SILENT_EVENTS = 30
"""Events in a row without a value after which a sensor can be silent."""
MAX_STEP_SHARE = 0.1
"""Part of `sensor_silent_s` that the time between two events counts at most: the stream's clock may jump."""
MIN_PRESENT_SHARE = 0.5
"""A sensor is usually present if it had a value in this share of the events before."""
MIN_SILENT_INTERVALS = 20
"""Usual intervals without an event after which a stream can be silent."""
REFUSED_LINES = 100
"""The newest lines whose refused share is watched, and refused lines after which a notice is sent."""
MAX_REFUSED_SHARE = 0.5
"""Largest share of refused lines that is no problem."""
MIN_REFUSED_LINES = 10
"""Fewest lines of which a share is computed."""
REFUSED_S = 60.0
"""Seconds of too many refused lines after which a notice is sent, also if they are few."""


_Key = tuple[NoticeKind, str]
"""A kind of state, and what it concerns, such as a feature."""


class Moment(NamedTuple):
    """A time, on two clocks."""

    clock_s: float
    """On the clock of `time.monotonic`."""
    time_s: float
    """Seconds since 1970."""


class StreamWatch:
    """Finds states of a stream that people should know of, and returns notices when one begins or ends.

    The states are: a sensor without values, a sensor whose value does not change, a stream without events,
    lines that are refused.

    Args:
        client: The client's name in notices.
        features: The names of the features.
        settings: Has `sensor_silent_s` and `stream_silent_s`.
        now: The start.
    """

    def __init__(self, client: str, features: Sequence[str], settings: LiveSettings, now: Moment) -> None:
        self._client, self._features, self._settings = client, features, settings
        self._count = 0
        """Number of events that were looked at."""
        self._present = np.zeros(len(features), np.int64)
        """Number of events in which each feature had a value."""
        self._missing_run = np.zeros(len(features), np.int64)
        """Number of newest events in which it had none."""
        self._missing_since = np.zeros(len(features), np.float64)
        """Time of the first of these, in seconds since 1970."""
        self._missing_from = np.zeros(len(features), np.float64)
        """The same in seconds of the stream (`_seconds`)."""
        self._newest: tuple[float, float] | None = None
        """Time of the newest event, in seconds since 1970 and in seconds of the stream."""
        self._runs = ValueRuns(len(features))
        self._last_event = now
        self._gaps: deque[float] = deque(maxlen=51)
        """Seconds between newest events, by the clock."""
        self._refused = 0
        """Number of lines that were refused before the last look."""
        self._lines: deque[tuple[int, int]] = deque()
        """Events and refused lines of the newest looks, together at least `REFUSED_LINES`."""
        self._refusing_since: tuple[Moment, int] | None = None
        """When the share of refused lines became too large, and the lines refused before; None: it is not."""
        self._open: dict[_Key, float] = {}
        """The time when each state with a notice began, in seconds since 1970."""
        self._problems: dict[_Key, str] = {}
        """The present problem in words; a notice follows once it has lasted."""

    def problems(self) -> list[str]:
        """Return what is wrong with the stream."""
        return list(self._problems.values())

    def look(self, recent: RecentEvents, refused: int, newest_refusal: str, now: Moment) -> list[Notice]:
        """Look at the events since the last call.

        Args:
            recent: The newest events.
            refused: Number of lines refused since the start.
            newest_refusal: Why the newest of them was refused.
            now: The time.

        Returns:
            Notices of states that have begun or ended.
        """
        events = recent.since(self._count)
        new = recent.count - self._count
        notices = self._look_at_stream(new, now)
        notices += self._look_at_refusals(new, refused - self._refused, newest_refusal, now)
        if len(events.rows):
            times = self._seconds(events.times)
            notices += self._look_at_sensors(np.isnan(events.rows), times)
            notices += self._look_at_runs(events.rows, times)
        self._count, self._refused = recent.count, refused
        return notices

    def _seconds(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the times of new events also in seconds of the stream, by a clock that does not jump.

        It stands still while the stream's clock goes back, and a step of that counts for a part of
        `sensor_silent_s` at most.

        Args:
            times: Seconds since 1970, shape (n,), n at least 1.

        Returns:
            Shape (n, 2): the times, and the seconds of the stream.
        """
        newest, passed_s = self._newest or (float(times[0]), 0.0)
        most = MAX_STEP_SHARE * self._settings.sensor_silent_s
        seconds = passed_s + np.cumsum(np.clip(np.diff(times, prepend=newest), 0.0, most))
        self._newest = float(times[-1]), float(seconds[-1])
        return np.stack([times, seconds], axis=1)

    def _look_at_stream(self, new: int, now: Moment) -> list[Notice]:
        silent_s = now.clock_s - self._last_event.clock_s
        key: _Key = ("stream_silent", "")
        if new:
            if self._count:
                self._gaps.append(silent_s / new)
            self._last_event = now
            return self._end(key, now.time_s, new, f"events come again, after {_time(silent_s)}")
        usual_s = float(np.median(self._gaps)) if self._gaps else 0.0
        if silent_s < max(self._settings.stream_silent_s, MIN_SILENT_INTERVALS * usual_s):
            return []
        usual = f"; usually one every {_time(usual_s)}" if usual_s else ""
        text = f"no event for {_time(silent_s)}{usual}"
        return self._begin(key, self._last_event.time_s, 0, text)

    def _look_at_refusals(self, events: int, refused: int, newest_refusal: str, now: Moment) -> list[Notice]:
        key: _Key = ("events_refused", "")
        if not events and not refused:
            return []
        self._lines.append((events, refused))
        total = sum(map(sum, self._lines))
        while total - sum(self._lines[0]) >= REFUSED_LINES:
            total -= sum(self._lines.popleft())
        share = sum(part[1] for part in self._lines) / total
        if total < MIN_REFUSED_LINES:
            return []
        if share <= MAX_REFUSED_SHARE:
            self._refusing_since = None
            return self._end(key, now.time_s, events, "events are accepted again")
        if self._refusing_since is None:
            self._refusing_since = (now, self._refused)
        since, before = self._refusing_since
        text = f"{share:.0%} of the last {total} lines were refused; the newest: {newest_refusal}"
        self._problems[key] = text
        count = self._refused + refused - before
        if count >= REFUSED_LINES or now.clock_s - since.clock_s >= REFUSED_S:
            return self._begin(key, since.time_s, count, text)
        return []

    def _look_at_sensors(self, missing: NDArray[np.bool_], times: NDArray[np.float64]) -> list[Notice]:
        notices: list[Notice] = []
        if not missing.any() and not self._missing_run.any():  # the usual case
            self._present += len(missing)
            return notices
        # Of each feature: the newest events without a value, whether these are all events of this call, and
        # whether they are the beginning of a run, or an earlier run has ended.
        trailing = np.where(missing.all(axis=0), len(missing), np.argmin(missing[::-1], axis=0))
        whole = trailing == len(missing)
        fresh = (trailing > 0) & ~(whole & (self._missing_run > 0))
        ended = ~whole & (self._missing_run > 0)
        for i in map(int, np.flatnonzero(ended)):
            key: _Key = ("sensor_silent", self._features[i])
            further = int(np.argmin(missing[:, i]))  # events until the first value
            events = int(self._missing_run[i]) + further
            text = f"'{key[1]}' has values again, after {events} events without"
            notices += self._end(key, float(times[further, 0]), events, text)
        self._missing_since[fresh], self._missing_from[fresh] = times[len(times) - trailing[fresh]].T
        self._missing_run = np.where(whole, self._missing_run + len(missing), trailing)
        self._present += (~missing).sum(axis=0)
        long = (self._missing_run >= MIN_SILENT_EVENTS) & (
            times[-1, 1] - self._missing_from >= self._settings.sensor_silent_s
        )
        before = self._count + len(missing) - self._missing_run
        for i in map(int, np.flatnonzero(long)):
            if 0 < self._present[i] < MIN_PRESENT_SHARE * before[i]:
                continue
            key = ("sensor_silent", self._features[i])
            usually = f"; before, in {self._present[i] / before[i]:.0%} of the events" if before[i] else ""
            text = f"'{key[1]}' has had no value in the last {self._missing_run[i]} events{usually}"
            notices += self._begin(key, float(self._missing_since[i]), int(self._missing_run[i]), text)
        return notices

    def _look_at_runs(self, rows: NDArray[np.float32], times: NDArray[np.float64]) -> list[Notice]:
        self._runs.add(rows, times)
        unusual: dict[_Key, Run] = {
            ("sensor_stuck", self._features[run.feature]): run for run in self._runs.unusual()
        }
        notices: list[Notice] = []
        for key in [key for key in self._problems if key[0] == "sensor_stuck" and key not in unusual]:
            notices += self._end(key, float(times[-1, 0]), len(rows), f"'{key[1]}' changes again")
        for key, run in unusual.items():
            if times[-1, 1] - run.from_s >= self._settings.sensor_silent_s:
                text = (
                    f"'{key[1]}' has been {run.value:g} in the last {run.events} events; before, it was "
                    f"never the same in more than {run.longest}"
                )
                notices += self._begin(key, run.since, run.events, text)
        return notices

    def _begin(self, key: _Key, started: float, events: int, text: str) -> list[Notice]:
        """Record a problem, and return the notice that it has begun, once."""
        self._problems[key] = text
        if key in self._open:
            return []
        self._open[key] = started
        return [self._notice(key, started, None, events, text)]

    def _end(self, key: _Key, ended: float, events: int, text: str) -> list[Notice]:
        """Forget a problem, and return the notice that it has ended if there was one that it began.

        A clock that was set back during a problem does not let it end before it began.
        """
        self._problems.pop(key, None)
        started = self._open.pop(key, None)
        if started is None:
            return []
        return [self._notice(key, started, max(started, ended), events, text)]

    def _notice(self, key: _Key, started: float, ended: float | None, events: int, text: str) -> Notice:
        content = f"{self._client}/{key[0]}/{key[1]}/{started!r}"
        id_ = hashlib.sha256(content.encode()).hexdigest()[:16]
        return Notice(key[0], id_, self._client, started, ended, events, None, text[:MAX_NOTICE_TEXT])


def _time(seconds: float) -> str:
    """Return a length of time in the unit that reads best."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.3g} s"
