"""The lines of a text file, also of one that grows, is cut off, or is replaced by another of its name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from client.connectors.sources.contract import MAX_LINE_BYTES, Ended, Position, SourceError, whole
from client.connectors.sources.lines import LineSplitter

CHUNK_BYTES = 1 << 16


class FileTail:
    """Batches of lines with the offset after each, like `tail -F` when it follows.

    A followed file that was replaced is read to its end first. It is left for the new one only when that
    has something in it: until then the writer may still hold the old one.
    """

    def __init__(self, path: Path, follow: bool, table: bool, position: Position | None) -> None:
        """Open `path`; of a table, the first line is given again when going on in the middle.

        Raises:
            SourceError: there is no such file and it is not followed, or it is no file.
        """
        self.problem: str | None = None
        self._path = path
        self._follow = follow
        self._table = table
        self._start = whole(position, "inode", "offset")
        self._inode, offset = self._start or (0, 0)
        self._lines = LineSplitter(MAX_LINE_BYTES, offset)
        self._fd: int | None = None
        self._replaced = False
        self._header: list[tuple[bytes, int]] = []
        self._open()

    def more(self) -> list[tuple[bytes, int]] | None:
        """The next lines, all of one file, [] when a line is not yet whole; None when nothing waits.

        Raises:
            Ended: the file was read to its end and is not followed.
        """
        if self._fd is None and not self._open():
            return None
        if self._header:
            header, self._header = self._header, []
            return header
        assert self._fd is not None  # noqa: S101
        if chunk := os.read(self._fd, CHUNK_BYTES):
            return self._lines.cut(chunk)
        if not self._follow:
            if last := self._lines.rest():
                return last
            raise Ended(f"{self._path}: read to its end")
        return self._after_the_end(self._fd)

    def position_at(self, offset: int | None) -> Position:
        """The position after the line with this offset; None: after all lines that `more` returned."""
        return {"inode": self._inode, "offset": self._lines.boundary if offset is None else offset}

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _after_the_end(self, fd: int) -> list[tuple[bytes, int]] | None:
        """What to do at the end of a followed file: wait, start it anew, or leave it for the next one."""
        try:
            now = self._path.stat()
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror or error}; waiting for it"
            return None
        self.problem = None
        if now.st_ino != self._inode or now.st_dev != os.fstat(fd).st_dev:
            if not now.st_size:
                return None
            if not self._replaced:  # once more: the last words may have come after the last look
                self._replaced = True
                return []
            last = self._lines.rest()
            if not last:
                self.close()
                self._open()
            return last
        if now.st_size < self._lines.seen:
            if last := self._lines.rest():
                return last
            os.lseek(fd, 0, os.SEEK_SET)
            self._lines = LineSplitter(MAX_LINE_BYTES)
            return []
        return None

    def _open(self) -> bool:
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
            if found := lines.feed(chunk):
                return found[:1]
        return lines.end()
