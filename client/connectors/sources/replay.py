"""Schedules of a recording's events: by their timestamps, or at a fixed rate."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from client.connectors.sources.contract import SourceError
from client.data.columns import TIME_NAMES, find_time
from client.data.timestamps import parse_seconds
from common.settings import DataSettings

MAX_LAG_S = 1.0
"""Events of a fixed rate that are overdue by more than this are delayed, so that no longer burst follows."""


class Schedule(Protocol):
    """Says when each event may be returned."""

    def due(self, event: bytes) -> float:
        """Return the time of the clock from which the next event may be returned."""
        ...


class FixedRate:
    """Makes events due at a fixed rate.

    Args:
        rate: Events per second.
        clock: Returns seconds; `time.monotonic` except in tests.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / rate
        self._clock = clock
        self._next = clock()

    def due(self, event: bytes) -> float:
        """Return one interval after the previous event; see `Schedule`."""
        due = max(self._next, self._clock() - MAX_LAG_S)
        self._next = due + self._interval_s
        return due


class RecordedTimes:
    """Makes events due at the intervals of their timestamps, divided by `speed`.

    When a timestamp is earlier than the one before, the replay restarts there. An event without a readable
    timestamp is due with the one before it.

    Args:
        name: Name of the recording in error messages.
        speed: Factor by which the replay is faster than the recording.
        table: Whether the recording is CSV, and its first line is the header.
        timestamp: Name of the column or field with the timestamp; None: it is found by a usual name.
        clock: Returns seconds; `time.monotonic` except in tests.

    >>> times = RecordedTimes("log", speed=60, table=False, clock=lambda: 100.0)
    >>> times.due(b'{"ts": "2024-01-01T00:00:00Z"}'), times.due(b'{"ts": 1704067260}')
    (100.0, 101.0)
    """

    def __init__(
        self,
        name: str,
        speed: float,
        table: bool,
        timestamp: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._speed, self._table = name, speed, table
        self._data = DataSettings(timestamp=timestamp)
        self._timestamp: str | None = None
        """Name of the field in JSON objects, once it is found."""
        self._clock = clock
        self._column: int | None = None
        self._start: tuple[float, float] | None = None
        """Timestamp of the event at which the replay (re)started, and when that event was due."""
        self._last = -math.inf
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict[str, Any])

    def due(self, event: bytes) -> float:
        """Return when the event is due; see `Schedule`.

        Raises:
            SourceError: there is no column with timestamps, or the first event has no readable timestamp.
        """
        if self._table and (self._column is None or event.startswith(b"#")):
            if not event.startswith(b"#"):
                self._column = self._find_column(event)
            return -math.inf
        moment = self._moment(event)
        if self._start is None and moment is None:
            raise SourceError(
                f"{self._name}: the first event has no readable {self._wanted}; "
                "speed needs it: set data.timestamp to its name"
            )
        if moment is not None:
            if self._start is None or moment < self._last:
                self._start = (moment, self._clock())
            self._last = moment
        first, at = self._start or (0.0, 0.0)
        return at + (self._last - first) / self._speed

    def _find_column(self, header: bytes) -> int:
        names = [cell.strip() for cell in _cells(header)]
        time = find_time(names, self._data)
        if time is None:
            raise SourceError(
                f"{self._name}: no column for {self._wanted} in the header; "
                "speed needs one: set data.timestamp to its name"
            )
        return names.index(time)

    @property
    def _wanted(self) -> str:
        name = self._data.timestamp
        return f"time '{name}'" if name is not None else f"time ({', '.join(TIME_NAMES)})"

    def _moment(self, event: bytes) -> float | None:
        """Return the event's timestamp in seconds since 1970; None without a readable timestamp."""
        if self._column is not None:
            cells = _cells(event)
            return parse_seconds(cells[self._column]) if self._column < len(cells) else None
        try:
            fields = self._decoder.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if self._timestamp is None:
            self._timestamp = find_time(fields, self._data)
        return None if self._timestamp is None else parse_seconds(fields.get(self._timestamp))


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig", "replace")]), [])
    except csv.Error:
        return []
