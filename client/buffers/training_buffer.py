"""The training buffer: a ring file of normal events, written by the detector and read by the trainer.

Two small files beside it contain the features of the events and the number of events that the trainer wants.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bounds import FeatureNames
from common.errors import UserError
from common.formats.files import write_atomic
from common.model.schema import Schema

log = logging.getLogger(__name__)

FILE, SCHEMA_FILE, WANTED_FILE = "buffer.ring", "schema.json", "wanted"
_HEADER = Struct("<8sIQ16s")  # magic, features, capacity, hash of the schema
_MAGIC = b"flkring1"
_COUNTS_AT = 48
_DATA_AT = 64


@dataclass(frozen=True, eq=False)
class BufferedRows:
    """Normal events, oldest first."""

    rows: NDArray[np.float32]
    """Shape (n, features), in each feature's own unit."""
    breaks: NDArray[np.bool_]
    """Shape (n,): whether an event does not directly follow the one before it."""

    @classmethod
    def empty(cls, features: int) -> BufferedRows:
        """Return no events, with the given number of features."""
        return cls(np.empty((0, features), np.float32), np.empty(0, np.bool_))

    def where(self, kept: NDArray[np.bool_]) -> BufferedRows:
        """Return the events that a mask keeps, shape (n,). An event after one that is left out is a break.

        >>> rows = BufferedRows(np.zeros((3, 1), np.float32), np.array([True, False, False]))
        >>> rows.where(np.array([True, False, True])).breaks.tolist()
        [True, True]
        """
        follows = np.concatenate([[True], kept[:-1]])
        return BufferedRows(self.rows[kept], (self.breaks | ~follows)[kept])

    def newest(self, n: int) -> BufferedRows:
        """Return the last `n` events, or all of them if there are fewer."""
        return BufferedRows(self.rows[-n:], self.breaks[-n:])


class TrainingBuffer:
    """The ring file, mapped into memory for writing. Its content survives the process.

    Args:
        folder: The client's state folder.
        schema: The features of the rows; a file with other features is replaced by an empty one.
        capacity: Number of events that it holds; when it is full, the oldest are overwritten.

    Raises:
        OSError: the file cannot be created at its full size.
    """

    def __init__(self, folder: Path, schema: Schema, capacity: int) -> None:
        self.problem: str | None = None
        """The reason why an existing file was replaced, if it was."""
        self._path = path = folder / FILE
        features = len(schema)
        size = _DATA_AT + capacity * (4 * features + 1)
        self._header = header = _HEADER.pack(_MAGIC, features, capacity, schema.hash.encode())
        if path.exists() and (defect := _defect(path, header, size)):
            self.problem = f"{path}: {defect}; replaced by an empty buffer"
            log.warning("training buffer replaced file=%s reason=%s", path, defect)
            path.unlink()
        if not path.exists():
            _create(path, header, size)
        self._capacity, self._features, self._size = capacity, features, size
        self._count = 0
        self._open(path)

    def __len__(self) -> int:
        """Return the number of events that it holds."""
        return min(self._count, self._capacity)

    def append(self, rows: NDArray[np.float32], breaks: NDArray[np.bool_]) -> None:
        """Add events.

        Args:
            rows: Shape (n, features), n at most the capacity.
            breaks: Shape (n,): whether an event does not directly follow the one before it.
        """
        after = self._count + len(rows)
        self._counts[1] = after
        slots = np.arange(self._count, after) % self._capacity
        self._rows[slots] = rows
        self._breaks[slots] = breaks
        self._counts[0] = self._count = after

    def contents(self) -> BufferedRows:
        """Return copies of all events, oldest first."""
        return _ordered(self._rows, self._breaks, self._count, self._capacity)

    def replace(self, events: BufferedRows) -> None:
        """Hold these events, at most the capacity, in place of all others.

        They go into a new file, so that a process that reads the old one sees no mixture.

        Raises:
            OSError: the file cannot be created at its full size; the old one is kept.
        """
        fresh = self._path.with_name(f"{FILE}.new")
        _create(fresh, self._header, self._size)
        self._map.flush()
        self._open(fresh)
        self.append(events.rows, events.breaks)
        fresh.replace(self._path)

    def close(self) -> None:
        """Write everything to disk."""
        self._map.flush()

    def _open(self, path: Path) -> None:
        """Map a file in place of the one that is mapped."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self._size)
        self._rows, self._breaks = _arrays(self._map, self._features, self._capacity)
        self._counts = _counts(self._map)
        self._count = int(self._counts[0])


def write_schema(folder: Path, schema: Schema) -> None:
    """Record the features of the stream, for the trainer.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(folder / SCHEMA_FILE, json.dumps(schema.features).encode())


def read_schema(folder: Path) -> Schema | None:
    """Return the features of the stream; None while they are not known.

    A damaged file counts as absent: the detector writes it again when it starts.
    """
    try:
        return Schema(msgspec.json.decode((folder / SCHEMA_FILE).read_bytes(), type=FeatureNames))
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UserError, ValueError) as error:
        log.warning("features not read file=%s reason=%s", folder / SCHEMA_FILE, error)
        return None


def forget_schema(folder: Path) -> None:
    """Remove the record of the features: the next stream may have others."""
    (folder / SCHEMA_FILE).unlink(missing_ok=True)


def write_wanted(folder: Path, events: int) -> None:
    """Record the number of events of the stream that the trainer wants, which the detector shows."""
    if read_wanted(folder) == events:
        return
    try:
        write_atomic(folder / WANTED_FILE, str(events).encode())
    except OSError as error:
        log.warning("number of wanted events not recorded reason=%s", error)


def read_wanted(folder: Path) -> int | None:
    """Return the number of events of the stream that the trainer wants; None while it is not recorded."""
    try:
        return int((folder / WANTED_FILE).read_text())
    except (OSError, ValueError):
        return None


def read_buffer(folder: Path, schema: Schema | None = None) -> BufferedRows | None:
    """Return copies of the events in a ring file, which another process may be writing.

    Args:
        folder: The client's state folder.
        schema: The features that the rows must have; None: any.

    Returns:
        The events, oldest first; None without a readable file with these features.
    """
    try:
        with (folder / FILE).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # absent, or empty
        return None
    with content:
        if len(content) < _DATA_AT:
            return None
        magic, features, capacity, hash_ = _HEADER.unpack_from(content)
        if magic != _MAGIC or len(content) != _DATA_AT + capacity * (4 * features + 1):
            return None
        if schema is not None and hash_ != schema.hash.encode():
            return None
        before, events, after = _copy(content, features, capacity)
        # Events written during the copy have replaced the oldest ones.
        overwritten = max(0, after - before - max(0, capacity - before))
        return BufferedRows(events.rows[overwritten:], events.breaks[overwritten:])


def _copy(content: mmap.mmap, features: int, capacity: int) -> tuple[int, BufferedRows, int]:
    """Return all events, and the number of events ever written before and after the copy."""
    counts, (rows, breaks) = _counts(content), _arrays(content, features, capacity)
    before = int(counts[0])
    events = _ordered(rows, breaks, before, capacity)
    return before, events, int(counts[1])


def _ordered(rows: NDArray[np.float32], breaks: NDArray[np.uint8], count: int, capacity: int) -> BufferedRows:
    # Slices and not indices: NumPy releases the interpreter lock when it copies slices.
    at = count % capacity
    order = [slice(at, capacity), slice(0, at)] if count > capacity else [slice(0, count)]
    ordered_breaks = np.concatenate([breaks[part] for part in order]) != 0
    ordered_breaks[:1] = True
    ordered = np.concatenate([rows[part] for part in order])
    ordered[np.isinf(ordered)] = np.nan  # no event has such a value: the file was damaged
    return BufferedRows(ordered, ordered_breaks)


def _counts(content: mmap.mmap) -> NDArray[np.uint64]:
    """Return a view of two counts: events ever written, and the same including those being written now.

    A NumPy element is read and written in one access, so another process never sees half of a new count.
    """
    return np.frombuffer(content, np.uint64, 2, _COUNTS_AT)


def _arrays(
    content: mmap.mmap, features: int, capacity: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rows = np.frombuffer(content, np.float32, capacity * features, _DATA_AT).reshape(capacity, features)
    breaks = np.frombuffer(content, np.uint8, capacity, _DATA_AT + rows.nbytes)
    return rows, breaks


def _create(path: Path, header: bytes, size: int) -> None:
    """Create the file at its full size: a write into a hole of the map would fail with a signal (SIGBUS)."""
    try:
        with path.open("wb") as file:
            file.write(header)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size - len(header)))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _defect(path: Path, header: bytes, size: int) -> str | None:
    """Return why an existing file cannot be used; None if it can."""
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, expected {size}"
    with path.open("rb") as file:
        start = file.read(len(header))
    return None if start == header else "has other features, or is damaged"
