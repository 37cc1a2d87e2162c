"""What training may learn from: a ring of normal events on disk."""

from __future__ import annotations

import logging
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from common.model.schema import Schema

log = logging.getLogger(__name__)

FILE = "buffer.ring"
_HEADER = Struct("<8sIQ16s")  # magic, features, capacity, hash of the schema
_MAGIC = b"flkring1"
_COUNTS_AT = 48
_ROOM = 64


@dataclass(frozen=True, eq=False)
class BufferedRows:
    """Normal events in their order."""

    rows: NDArray[np.float32]
    """Shape (n, features), in the features' own units."""
    breaks: NDArray[np.bool_]
    """Shape (n,): whether an event does not follow the one before it."""

    @classmethod
    def nothing(cls, features: int) -> BufferedRows:
        """No events of so many features."""
        return cls(np.empty((0, features), np.float32), np.empty(0, np.bool_))

    def newest(self, n: int) -> BufferedRows:
        """The last `n` events, or those there are."""
        return BufferedRows(self.rows[-n:], self.breaks[-n:])


class TrainingBuffer:
    """The ring, mapped for writing. What is in it survives its process.

    Args:
        folder: The client's state folder.
        schema: The features of the rows; a ring of other features is started anew.
        capacity: Events that it holds; the oldest go first.

    Raises:
        OSError: the file cannot be made as large as it has to be.
    """

    def __init__(self, folder: Path, schema: Schema, capacity: int) -> None:
        self.problem: str | None = None
        """That an earlier ring could not be used."""
        path = folder / FILE
        features = len(schema)
        size = _ROOM + capacity * (4 * features + 1)
        head = _HEADER.pack(_MAGIC, features, capacity, schema.hash.encode())
        if path.exists() and (wrong := _problem(path, head, size)):
            self.problem = f"{path}: {wrong}; started anew"
            log.warning("buffer started anew file=%s reason=%s", path, wrong)
            path.unlink()
        if not path.exists():
            _make(path, head, size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._capacity = capacity
        self._rows, self._breaks = _arrays(self._map, features, capacity)
        self._counts = _counts(self._map)
        self._count = int(self._counts[0])

    def __len__(self) -> int:
        """Events that it holds."""
        return min(self._count, self._capacity)

    def append(self, rows: NDArray[np.float32], breaks: NDArray[np.bool_]) -> None:
        """Add events of shape (n, features), n at most the capacity, and whether each begins a stretch."""
        after = self._count + len(rows)
        self._counts[1] = after
        slots = np.arange(self._count, after) % self._capacity
        self._rows[slots] = rows
        self._breaks[slots] = breaks
        self._counts[0] = self._count = after

    def kept(self) -> BufferedRows:
        """Copies of all events that it holds, oldest first."""
        return _ordered(self._rows, self._breaks, self._count, self._capacity)

    def close(self) -> None:
        """Write everything to disk."""
        self._map.flush()


def read(folder: Path, schema: Schema | None = None) -> BufferedRows | None:
    """The events of a ring that another process may be writing; None where there is none that can be read.

    Args:
        folder: The client's state folder.
        schema: The features that the rows must have; None: whatever they are.
    """
    try:
        with (folder / FILE).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # absent, or empty
        return None
    with content:
        if len(content) < _ROOM:
            return None
        magic, features, capacity, hash_ = _HEADER.unpack_from(content)
        if magic != _MAGIC or len(content) != _ROOM + capacity * (4 * features + 1):
            return None
        if schema is not None and hash_ != schema.hash.encode():
            return None
        before, found, after = _copy(content, features, capacity)
        overwritten = max(0, after - before - max(0, capacity - before))
        return BufferedRows(found.rows[overwritten:], found.breaks[overwritten:])


def _copy(content: mmap.mmap, features: int, capacity: int) -> tuple[int, BufferedRows, int]:
    """All events, between the two counts: what was written meanwhile took the place of the oldest."""
    counts, (rows, breaks) = _counts(content), _arrays(content, features, capacity)
    before = int(counts[0])
    found = _ordered(rows, breaks, before, capacity)
    return before, found, int(counts[1])


def _ordered(rows: NDArray[np.float32], breaks: NDArray[np.bool_], count: int, capacity: int) -> BufferedRows:
    # Slices and not indices: copying them, NumPy lets other threads run.
    at = count % capacity
    order = [slice(at, capacity), slice(0, at)] if count > capacity else [slice(0, count)]
    taken = np.concatenate([breaks[part] for part in order])
    taken[:1] = True
    return BufferedRows(np.concatenate([rows[part] for part in order]), taken)


def _counts(content: mmap.mmap) -> NDArray[np.uint64]:
    """Events ever written, and those with the ones that are being written now.

    Each is read and written whole: of half the bytes of a count another process would make another count.
    """
    return np.frombuffer(content, np.uint64, 2, _COUNTS_AT)


def _arrays(
    content: mmap.mmap, features: int, capacity: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rows = np.frombuffer(content, np.float32, capacity * features, _ROOM).reshape(capacity, features)
    return rows, np.frombuffer(content, np.bool_, capacity, _ROOM + rows.nbytes)


def _make(path: Path, head: bytes, size: int) -> None:
    """Take the room now: a disk that is full must say so here, and not by a signal at some later write."""
    try:
        with path.open("wb") as file:
            file.write(head)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size - len(head)))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _problem(path: Path, head: bytes, size: int) -> str | None:
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, expected {size}"
    with path.open("rb") as file:
        found = file.read(len(head))
    return None if found == head else "of other features, or damaged"
