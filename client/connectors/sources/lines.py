"""Lines of a stream that comes in chunks, and of a file that grows, is replaced, or is overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from client.connectors.sources.contract import (
    MAX_LINE_BYTES,
    EndOfStreamError,
    Position,
    SourceError,
    fingerprint,
    whole_numbers,
)

CHUNK_BYTES = 1 << 16
HEAD_BYTES = 1024
"""Number of first bytes that identify a file, together with its inode number."""


class LineSplitter:
    r"""Returns the lines of a stream that comes in chunks of any size.

    A carriage return before the newline is removed, and empty lines are skipped. Of a line longer than
    `max_bytes`, the first `max_bytes + 1` bytes are returned once, and the rest up to its newline is dropped.

    Args:
        max_bytes: Size of the longest line that is returned whole.
        offset: Position of the first chunk in the stream, in bytes.

    >>> lines = LineSplitter(max_bytes=4)
    >>> lines.feed(b"one\r\n\ntw"), lines.feed(b"o\nthousands"), lines.feed(b"\n4"), lines.end()
    ([b'one'], [b'two', b'thous'], [], [b'4'])
    """

    def __init__(self, max_bytes: int, offset: int = 0) -> None:
        self.seen = offset
        """Position in the stream after the last chunk."""
        self.boundary = offset
        """Position after the last whole line: a reader that continues here loses and repeats nothing."""
        self._max_bytes = max_bytes + 1  # a carriage return may follow max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._dropping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that the chunk completes."""
        return [line for line, _ in self.feed_with_offsets(chunk)]

    def end(self) -> list[bytes]:
        """Return the last line if the stream has ended without a newline."""
        return [line for line, _ in self.end_with_offset()]

    def feed_with_offsets(self, chunk: bytes) -> list[tuple[bytes, int]]:
        """Return the lines that the chunk completes, each with the offset to continue from after it.

        A line that is too long is returned before its end is known, with the offset of its start.
        """
        lines: list[tuple[bytes, int]] = []
        first, *others = chunk.split(b"\n")
        self._add(first, lines)
        for piece in others:
            self.seen += 1
            self._finish(lines)
            self._add(piece, lines)
        return lines

    def end_with_offset(self) -> list[tuple[bytes, int]]:
        """Return what `end` returns, with its offset. The next chunk starts a new line."""
        lines: list[tuple[bytes, int]] = []
        self._finish(lines)
        return lines

    def _add(self, piece: bytes, lines: list[tuple[bytes, int]]) -> None:
        self.seen += len(piece)
        if self._dropping or not piece:
            return
        self._parts.append(piece[: self._max_bytes + 1 - self._size])
        self._size += len(self._parts[-1])
        if self._size > self._max_bytes:
            lines.append((b"".join(self._parts)[: self._max_bytes], self.boundary))
            self._parts, self._size, self._dropping = [], 0, True
        elif len(self._parts) >= 1024:  # single bytes must not take the memory of an object each
            self._parts = [b"".join(self._parts)]

    def _finish(self, lines: list[tuple[bytes, int]]) -> None:
        line = (self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)).removesuffix(b"\r")
        self._parts, self._size, self._dropping, self.boundary = [], 0, False, self.seen
        if line:
            lines.append((line, self.boundary))


class FileTail:
    """Batches of lines, each line with the offset after it; like `tail -F` when it follows the file.

    A followed file that was replaced is read to its end. The new file is opened once it has content: until
    then the writer may still write to the old one. A file whose first bytes have changed was overwritten, and
    is read from its start.

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
        self._start_head = _head_of(position)
        self._head = b""
        """The first bytes of the file, at most `HEAD_BYTES`, as far as they were read."""
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
        if os.pread(self._fd, len(self._head), 0) != self._head:
            return self._restart(self._fd)
        if chunk := os.read(self._fd, CHUNK_BYTES):
            lines = self._lines.feed_with_offsets(chunk)
            if len(self._head) < HEAD_BYTES:
                self._head = os.pread(self._fd, min(HEAD_BYTES, self._lines.seen), 0)
            return lines
        if not self._follow:
            if last := self._lines.end_with_offset():
                return last
            raise EndOfStreamError(f"{self._path}: read to its end")
        return self._at_end(self._fd)

    def position_at(self, offset: int | None) -> Position:
        """Return the position after the line with this offset; None: after all lines returned so far."""
        return {
            "inode": self._inode,
            "offset": self._lines.boundary if offset is None else offset,
            "head_bytes": len(self._head),
            "head": fingerprint(self._head),
        }

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _at_end(self, fd: int) -> list[tuple[bytes, int]] | None:
        """Handle the end of a followed file: wait, restart after a truncation, or change to the new file."""
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
        return self._restart(fd) if now.st_size < self._lines.seen else None

    def _restart(self, fd: int) -> list[tuple[bytes, int]]:
        """Restart a truncated or overwritten file; first return the incomplete last line, if there is one."""
        if last := self._lines.end_with_offset():
            return last
        os.lseek(fd, 0, os.SEEK_SET)
        self._lines, self._head = LineSplitter(MAX_LINE_BYTES), b""
        return []

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
        if self._start_head is not None:
            size, head = self._start_head
            same = same and fingerprint(os.pread(fd, size, 0)) == head
        offset = self._start[1] if self._start is not None and same else 0
        self._head, self._start_head = os.pread(fd, min(HEAD_BYTES, offset), 0), None
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


def _head_of(position: Position | None) -> tuple[int, int] | None:
    """Return size and fingerprint of the first bytes; None in a position that an earlier release saved."""
    if not position or "head" not in position:
        return None
    size, head = whole_numbers(position, "head_bytes", "head") or (0, 0)
    return min(size, HEAD_BYTES), head
