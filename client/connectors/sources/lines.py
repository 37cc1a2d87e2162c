"""Splits a stream of bytes into lines with bounded memory."""

from __future__ import annotations


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
