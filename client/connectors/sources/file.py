"""Events of a file: CSV, JSON lines, any other lines, or Parquet; followed, or replayed at a pace."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from client.connectors.addresses import Address, AddressError
from client.connectors.sources.contract import Ended, Position, SourceError
from client.connectors.sources.parquet import ParquetRows
from client.connectors.sources.replay import FixedRate, Replayed, Schedule, Unpaced
from client.connectors.sources.tail import FileTail
from client.data.recent_events import MAX_BATCH_EVENTS

POLL_S = 0.05
"""How often a followed file is looked at."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


class Reader(Protocol):
    """A file in batches; see `FileTail`."""

    problem: str | None

    def more(self) -> list[tuple[bytes, int]] | None:
        """The next events, each with its offset; None when nothing waits."""
        ...

    def position_at(self, offset: int | None) -> Position:
        """The position after the event with this offset; None: after all events returned."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class FileSource:
    """The lines or rows of a file, from a position on.

    The first line of a CSV file, its header, is an event; it comes again when reading goes on after it.
    """

    def __init__(
        self,
        path: Path,
        position: Position | None = None,
        *,
        follow: bool = False,
        speed: float | None = None,
        rate: float | None = None,
    ) -> None:
        """Read `path`; `follow` it, replay it at `speed` times real time, or at `rate` events a second.

        Raises:
            SourceError: it cannot be read, or so it cannot be read.
        """
        if path.suffix in COMPRESSED:
            raise SourceError(f"{path}: is compressed; expected text or Parquet")
        if speed and rate:
            raise SourceError(f"{path}: both speed and rate; expected one of them")
        table = path.suffix == ".csv"
        self._schedule: Schedule = Unpaced()
        if speed:
            self._schedule = Replayed(str(path), speed, table)
        elif rate:
            self._schedule = FixedRate(rate)
        if path.suffix == ".parquet" and follow:
            raise SourceError(f"{path}: follow of a Parquet file, which does not grow; expected lines")
        self._reader: Reader = (
            ParquetRows(path, position)
            if path.suffix == ".parquet"
            else FileTail(path, follow, table, position)
        )
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._due: float | None = None
        self._offset: int | None = None
        self._look_at = 0.0
        self._closed = False

    @classmethod
    def at(cls, address: Address, position: Position | None) -> FileSource:
        """The source at `file:PATH`."""
        address.only("follow", "speed", "rate")
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
        )

    @property
    def problem(self) -> str | None:
        """That a followed file is not there."""
        return self._reader.problem

    def read(self, timeout_s: float) -> list[bytes]:
        """The events that wait; see `Source`."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._closed:
                raise Ended("closed")
            now = time.monotonic()
            if not self._waiting and now >= self._look_at:
                batch = self._reader.more()
                if batch is None:
                    self._look_at = now + POLL_S
                else:
                    self._waiting.extend(batch)
            if events := self._take(now):
                return events
            next_at = self._due if self._waiting and self._due is not None else self._look_at
            if now >= deadline:
                return []
            if next_at > now:
                time.sleep(min(next_at, deadline) - now)

    def position(self) -> Position:
        """Where to go on: `inode` and `offset` of lines, `row` of Parquet."""
        return self._reader.position_at(self._offset if self._waiting else None)

    def close(self) -> None:
        """Close the file."""
        if not self._closed:
            self._closed = True
            self._offset = self.position().get("offset") if self._waiting else None
            self._reader.close()

    def _take(self, now: float) -> list[bytes]:
        """The waiting events that are due."""
        events: list[bytes] = []
        while self._waiting and len(events) < MAX_BATCH_EVENTS:
            event, offset = self._waiting[0]
            if self._due is None:
                self._due = self._schedule.due(event)
            if self._due > now:
                break
            self._waiting.popleft()
            self._due, self._offset = None, offset
            events.append(event)
        return events
