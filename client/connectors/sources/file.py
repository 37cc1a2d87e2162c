"""Events from a file: CSV, JSON lines, other lines, or Parquet; followed, or replayed at a pace."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.addresses import Address, AddressError
from client.connectors.sources.contract import (
    EndOfStreamError,
    Position,
    SourceError,
)
from client.connectors.sources.lines import FileTail
from client.connectors.sources.parquet import ParquetRows
from client.connectors.sources.replay import FixedRate, RecordedTimes, Schedule

POLL_S = 0.05
"""Interval at which a followed file is checked for new lines."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


class Reader(Protocol):
    """Reads a file in batches; see `FileTail`."""

    problem: str | None

    def next_batch(self) -> list[tuple[bytes, int]] | None:
        """Return the next events, each with its offset; None if there are none now."""
        ...

    def position_at(self, offset: int | None) -> Position:
        """Return the position after the event with this offset; None: after all events returned so far."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class FileSource:
    """The lines or rows of a file.

    The header of a CSV file is passed on as a line; when reading continues after it, it is passed on again.

    Args:
        path: The file.
        position: Where to continue; None: at the start.
        follow: Whether to wait for more lines at the end.
        speed: Replays the file by its timestamps, this many times faster than recorded.
        rate: Replays the file with this many events per second.
        timestamp: Name of the column or field with the timestamp, for `speed`; None: a usual name.

    Raises:
        SourceError: the file cannot be read, or not with these options.
    """

    def __init__(
        self,
        path: Path,
        position: Position | None = None,
        *,
        follow: bool = False,
        speed: float | None = None,
        rate: float | None = None,
        timestamp: str | None = None,
    ) -> None:
        if path.suffix in COMPRESSED:
            raise SourceError(f"{path}: is compressed; expected text or Parquet")
        if speed and rate:
            raise SourceError(f"{path}: both speed and rate; expected one of them")
        table, parquet = path.suffix == ".csv", path.suffix == ".parquet"
        self._schedule: Schedule | None = None
        if speed:
            self._schedule = RecordedTimes(str(path), speed, table, timestamp)
        elif rate:
            self._schedule = FixedRate(rate)
        if parquet and follow:
            raise SourceError(f"{path}: a Parquet file does not grow, so it cannot be followed")
        self._reader: Reader = (
            ParquetRows(path, position) if parquet else FileTail(path, follow, table, position)
        )
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._due: float | None = None
        """The time when the first waiting event is due; None: not computed yet."""
        self._offset: int | None = None
        """Offset of the event returned last."""
        self._next_poll = 0.0
        self._closed = False

    @classmethod
    def at(cls, address: Address, position: Position | None, timestamp: str | None) -> FileSource:
        """Open `file:PATH?follow=true`, `file:PATH?speed=60` or `file:PATH?rate=100`."""
        address.expect_options("follow", "speed", "rate")
        place = address.place
        if place.startswith("///"):
            place = place[2:]
        if not place or place.startswith("//"):
            raise AddressError(f"{address.text}: expected file:PATH")
        return cls(
            Path(unquote(place)),
            position,
            follow=address.flag("follow"),
            speed=address.number("speed"),
            rate=address.number("rate"),
            timestamp=timestamp,
        )

    @property
    def problem(self) -> str | None:
        """The current problem: a followed file does not exist; None without one."""
        return self._reader.problem

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events; see `Source`."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._closed:
                raise EndOfStreamError("closed")
            now = time.monotonic()
            if not self._waiting and now >= self._next_poll:
                batch = self._reader.next_batch()
                if batch is None:
                    self._next_poll = now + POLL_S
                else:
                    self._waiting.extend(batch)
            if events := self._take_due(now):
                return events
            next_at = self._due if self._waiting and self._due is not None else self._next_poll
            if now >= deadline:
                return []
            if next_at > now:
                time.sleep(min(next_at, deadline) - now)

    def position(self) -> Position:
        """Return the position: `inode`, `offset` and first bytes of lines, `row` and content of Parquet."""
        return self._reader.position_at(self._offset if self._waiting else None)

    def close(self) -> None:
        """Close the file."""
        if not self._closed:
            self._closed = True
            self._offset = self.position().get("offset") if self._waiting else None
            self._reader.close()

    def _take_due(self, now: float) -> list[bytes]:
        """Remove and return the waiting events that are due."""
        events: list[bytes] = []
        while self._waiting and len(events) < MAX_BATCH_EVENTS:
            event, offset = self._waiting[0]
            if self._schedule is not None:
                if self._due is None:
                    self._due = self._schedule.due(event)
                if self._due > now:
                    break
            self._waiting.popleft()
            self._due, self._offset = None, offset
            events.append(event)
        return events
