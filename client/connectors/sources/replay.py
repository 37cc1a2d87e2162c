"""When an event of a recording is due: by its own timestamps, or so many a second."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from client.connectors.sources.contract import SourceError
from client.data.decoding import seconds

TIME = "ts"
"""The column or key that holds an event's time (see `client.data.decoding.seconds`)."""

LATE_S = 1.0
"""How far a reader of a steady rate may fall behind and still be given what it missed at once."""


class _Timed(msgspec.Struct):
    ts: int | float | str | None = None


class Schedule(Protocol):
    """When events may be handed out."""

    def due(self, event: bytes) -> float:
        """The moment of the clock at which this event, the next one, may be handed out."""
        ...


class Unpaced:
    """Every event is due when it is read."""

    def due(self, event: bytes) -> float:
        """Long ago."""
        return -math.inf


class FixedRate:
    """So many events a second; after a pause of the reader, no burst longer than `LATE_S`."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = 1 / rate
        self._clock = clock
        self._next = clock()

    def due(self, event: bytes) -> float:
        """One gap after the event before."""
        due = max(self._next, self._clock() - LATE_S)
        self._next = due + self._gap_s
        return due


class Replayed:
    """Events as far apart as their timestamps, `speed` times faster. Time that jumps back starts anew.

    An event without a readable time is due with the one before.

    >>> replayed = Replayed("log", speed=60, table=False, clock=lambda: 100.0)
    >>> replayed.due(b'{"ts": "2024-01-01T00:00:00Z"}'), replayed.due(b'{"ts": 1704067260}')
    (100.0, 101.0)
    """

    def __init__(
        self, name: str, speed: float, table: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Replay what `name`, for messages, holds; of a table, the first line names the columns."""
        self._name = name
        self._speed = speed
        self._clock = clock
        self._table = table
        self._column: int | None = None
        self._first: tuple[float, float] | None = None
        self._last = -math.inf
        self._decoder = msgspec.json.Decoder(_Timed, strict=True)

    def due(self, event: bytes) -> float:
        """As long after the first event as its timestamp says.

        Raises:
            SourceError: the first event has no time, so there is nothing to go by.
        """
        if self._table and self._column is None:
            self._column = self._find(event)
            return -math.inf
        moment = self._moment(event)
        if self._first is None and moment is None:
            raise SourceError(f"{self._name}: the first event has no readable '{TIME}'; speed needs one")
        if moment is not None:
            if self._first is None or moment < self._last:
                self._first = (moment, self._clock())
            self._last = moment
        start, at = self._first or (0.0, 0.0)
        return at + (self._last - start) / self._speed

    def _find(self, header: bytes) -> int:
        names = [cell.strip() for cell in _cells(header)]
        if TIME not in names:
            raise SourceError(f"{self._name}: no column '{TIME}' in the header; speed needs one")
        return names.index(TIME)

    def _moment(self, event: bytes) -> float | None:
        value: int | float | str | None
        if self._column is not None:
            cells = _cells(event)
            value = cells[self._column] if self._column < len(cells) else None
        else:
            try:
                value = self._decoder.decode(event).ts
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
        return seconds(value)


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig", "replace")]), [])
    except csv.Error:
        return []
