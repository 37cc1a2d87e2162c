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

from common.schema import Schema

log = logging.getLogger(__name__)

FILE = "buffer.ring"
_HEADER = Struct("<8sII16sQ")  # magic, features, capacity, hash of the schema, events ever written
_MAGIC = b"flkring1"
_COUNT_AT = _HEADER.size - 8
_ROOM = 64


@dataclass(frozen=True, eq=False)
class Kept:
    """Normal events in their order."""

    rows: NDArray[np.float32]
    """Shape (n, features), in the features' own units."""
    breaks: NDArray[np.bool_]
    """Shape (n,): whether an event does not follow the one before it."""


class Buffer:
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
        head = _HEADER.pack(_MAGIC, features, capacity, schema.hash.encode(), 0)
        if path.exists() and (wrong := _problem(path, head, size)):
            self.problem = f"{path}: {wrong}; started anew"
            log.warning("buffer started anew file=%s reason=%s", path, wrong)
            path.unlink()
        if not path.exists():
            with path.open("wb") as file:
                file.write(head)
                # Taken now: a disk that is full must say so here, and not by a signal at the first write.
                os.posix_fallocate(file.fileno(), 0, size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._capacity = capacity
        self._rows, self._breaks = _arrays(self._map, features, capacity)
        self._count: int = _count(self._map)

    def __len__(self) -> int:
        """Events that it holds."""
        return min(self._count, self._capacity)

    def append(self, rows: NDArray[np.float32], breaks: NDArray[np.bool_]) -> None:
        """Add events of shape (n, features), n at most the capacity, and whether each begins a stretch."""
        slots = np.arange(self._count, self._count + len(rows)) % self._capacity
        self._rows[slots] = rows
        self._breaks[slots] = breaks
        self._count += len(rows)
        self._map[_COUNT_AT : _COUNT_AT + 8] = self._count.to_bytes(8, "little")

    def kept(self) -> Kept:
        """Copies of all events that it holds, oldest first."""
        return _ordered(self._rows, self._breaks, self._count, self._capacity)

    def close(self) -> None:
        """Write everything to disk."""
        self._map.flush()


def read(folder: Path, schema: Schema | None = None) -> Kept | None:
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
        magic, features, capacity, hash_, before = _HEADER.unpack_from(content)
        if magic != _MAGIC or len(content) != _ROOM + capacity * (4 * features + 1):
            return None
        if schema is not None and hash_ != schema.hash.encode():
            return None
        found = _copy(content, features, capacity, before)
        # What was written while we read took the place of the oldest.
        overwritten = max(0, _count(content) - before - max(0, capacity - before))
        return Kept(found.rows[overwritten:], found.breaks[overwritten:])


def _copy(content: mmap.mmap, features: int, capacity: int, count: int) -> Kept:
    rows, breaks = _arrays(content, features, capacity)
    return _ordered(rows, breaks, count, capacity)


def _ordered(rows: NDArray[np.float32], breaks: NDArray[np.bool_], count: int, capacity: int) -> Kept:
    slots = np.arange(max(0, count - capacity), count) % capacity
    taken = breaks[slots]
    taken[:1] = True
    return Kept(rows[slots], taken)


def _arrays(
    content: mmap.mmap, features: int, capacity: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rows = np.frombuffer(content, np.float32, capacity * features, _ROOM).reshape(capacity, features)
    return rows, np.frombuffer(content, np.bool_, capacity, _ROOM + rows.nbytes)


def _count(content: mmap.mmap) -> int:
    return int.from_bytes(content[_COUNT_AT : _COUNT_AT + 8], "little")


def _problem(path: Path, head: bytes, size: int) -> str | None:
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, expected {size}"
    with path.open("rb") as file:
        found = file.read(_COUNT_AT)
    return None if found == head[:_COUNT_AT] else "of other features, or damaged"
