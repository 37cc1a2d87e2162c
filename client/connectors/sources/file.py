"""Events from a file: CSV, JSON lines, other lines, or Parquet; followed, or replayed at a pace."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from client.connectors.addresses import Address, AddressError
from client.connectors.sources.contract import (
    MAX_LINE_BYTES,
    EndOfStreamError,
    Position,
    SourceError,
    whole_numbers,
)
from client.connectors.sources.lines import LineSplitter
from client.connectors.sources.parquet import ParquetRows
from client.connectors.sources.replay import FixedRate, RecordedTimes, Schedule
from client.data.recent_events import MAX_BATCH_EVENTS

POLL_S = 0.05
"""Interval at which a followed file is checked for new lines."""

CHUNK_BYTES = 1 << 16

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
        """When the first waiting event is due; None: not computed yet."""
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
        """Return the position: `inode` and `offset` of lines, `row` of Parquet."""
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


class FileTail:
    """Batches of lines, each line with the offset after it; like `tail -F` when it follows the file.

    A followed file that was replaced is read to its end. The new file is opened once it has content: until
    then the writer may still write to the old one.

    Args:
        path: The file.
        follow: Whether to wait for more lines at the end of the file.
        table: Whether the file is CSV: its header is returned again when reading continues after it.
        position: Where to continue; None: at the start.

    Raises:
        SourceError: the path is not a regular file, or does not exist and is not followed.
    """

    def __init__(self, path: Path, follow: bool, table: bool, position: Position | None) -> None:
        self.problem: str | None = None
        self._path, self._follow, self._table = path, follow, table
        self._start = whole_numbers(position, "inode", "offset")
        self._inode, offset = self._start or (0, 0)
        self._lines = LineSplitter(MAX_LINE_BYTES, offset)
        self._fd: int | None = None
        self._replaced = False
        self._header: list[tuple[bytes, int]] = []
        self._open()

    def next_batch(self) -> list[tuple[bytes, int]] | None:
        """Return the next lines, all of one file; [] if no line is complete yet, None if nothing was read.

        Raises:
            EndOfStreamError: the file was read to its end and is not followed.
        """
        if self._fd is None and not self._open():
            return None
        if self._header:
            header, self._header = self._header, []
            return header
        assert self._fd is not None  # noqa: S101  it was opened above
        if chunk := os.read(self._fd, CHUNK_BYTES):
            return self._lines.feed_with_offsets(chunk)
        if not self._follow:
            if last := self._lines.end_with_offset():
                return last
            raise EndOfStreamError(f"{self._path}: read to its end")
        return self._at_end(self._fd)

    def position_at(self, offset: int | None) -> Position:
        """Return the position after the line with this offset; None: after all lines returned so far."""
        return {"inode": self._inode, "offset": self._lines.boundary if offset is None else offset}

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _at_end(self, fd: int) -> list[tuple[bytes, int]] | None:
        """At the end of a followed file: wait, restart after a truncation, or change to the new file."""
        try:
            now = self._path.stat()
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror or error}; waiting for it"
            return None
        self.problem = None
        if now.st_ino != self._inode or now.st_dev != os.fstat(fd).st_dev:
            if not now.st_size:
                return None
            if not self._replaced:  # read once more: lines may have been added after the last read
                self._replaced = True
                return []
            last = self._lines.end_with_offset()
            if not last:
                self.close()
                self._open()
            return last
        if now.st_size < self._lines.seen:
            if last := self._lines.end_with_offset():
                return last
            os.lseek(fd, 0, os.SEEK_SET)
            self._lines = LineSplitter(MAX_LINE_BYTES)
            return []
        return None

    def _open(self) -> bool:
        """Open the file, at the position to continue from if it is still the same file."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if not self._follow:
                raise SourceError(f"{self._path}: {error.strerror}; expected a file to read") from error
            self.problem = f"{self._path}: {error.strerror}; waiting for it"
            return False
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode):
            os.close(fd)
            raise SourceError(f"{self._path}: is a folder or a device; expected a file to read")
        same = self._start is not None and self._start[0] == now.st_ino and self._start[1] <= now.st_size
        offset = self._start[1] if self._start is not None and same else 0
        self._fd, self._inode, self._start = fd, now.st_ino, None
        self.problem, self._replaced = None, False
        self._lines = LineSplitter(MAX_LINE_BYTES, offset)
        if offset and self._table:
            self._header = [(line, offset) for line in self._first_line(fd)]
        os.lseek(fd, offset, os.SEEK_SET)
        return True

    @staticmethod
    def _first_line(fd: int) -> list[bytes]:
        lines = LineSplitter(MAX_LINE_BYTES)
        while chunk := os.read(fd, CHUNK_BYTES):
            if complete := lines.feed(chunk):
                return complete[:1]
        return lines.end()
