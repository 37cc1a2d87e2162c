"""A stream of bytes cut into lines, with bounded memory whatever comes."""

from __future__ import annotations


class LineSplitter:
    r"""Lines out of chunks, the same however the stream was cut. Linear in time, bounded in memory.

    A carriage return before the newline goes, empty lines are skipped. Of a line longer than `max_bytes`,
    the first `max_bytes + 1` bytes are handed on once and the rest is dropped up to its newline.

    >>> lines = LineSplitter(max_bytes=4)
    >>> lines.feed(b"one\r\n\ntw"), lines.feed(b"o\nthousands"), lines.feed(b"\n4"), lines.end()
    ([b'one'], [b'two', b'thous'], [], [b'4'])
    """

    def __init__(self, max_bytes: int, offset: int = 0) -> None:
        """Start at `offset` of the stream."""
        self.seen = offset
        """Bytes of the stream until now."""
        self.boundary = offset
        """Where the last whole line ended: reading from here on loses nothing and repeats nothing."""
        self._most = max_bytes + 1  # a carriage return may still follow max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._dropping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes."""
        return [line for line, _ in self.cut(chunk)]

    def end(self) -> list[bytes]:
        """The last line, when the stream ended without a newline."""
        return [line for line, _ in self.rest()]

    def cut(self, chunk: bytes) -> list[tuple[bytes, int]]:
        """The lines that this chunk completes, each with the offset to go on from after it.

        A line too long is handed on before its end is known: its offset is its start.
        """
        lines: list[tuple[bytes, int]] = []
        first, *others = chunk.split(b"\n")
        self._add(first, lines)
        for piece in others:
            self.seen += 1
            self._finish(lines)
            self._add(piece, lines)
        return lines

    def rest(self) -> list[tuple[bytes, int]]:
        """What `end` returns, with its offset. The next chunk starts a new line."""
        lines: list[tuple[bytes, int]] = []
        self._finish(lines)
        return lines

    def _add(self, piece: bytes, lines: list[tuple[bytes, int]]) -> None:
        self.seen += len(piece)
        if self._dropping or not piece:
            return
        self._parts.append(piece[: self._most + 1 - self._size])
        self._size += len(self._parts[-1])
        if self._size > self._most:
            lines.append((b"".join(self._parts)[: self._most], self.boundary))
            self._parts, self._size, self._dropping = [], 0, True
        elif len(self._parts) >= 1024:  # bytes that come one by one must not cost an object each
            self._parts = [b"".join(self._parts)]

    def _finish(self, lines: list[tuple[bytes, int]]) -> None:
        line = (self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)).removesuffix(b"\r")
        self._parts, self._size, self._dropping, self.boundary = [], 0, False, self.seen
        if line:
            lines.append((line, self.boundary))
