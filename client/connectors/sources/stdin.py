"""Events from standard input, one per line."""

from __future__ import annotations

import os
import select
from collections import deque

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.addresses import Address
from client.connectors.sources.contract import MAX_LINE_BYTES, EndOfStreamError, Position
from client.connectors.sources.lines import LineSplitter

CHUNK_BYTES = 1 << 16


class StdinSource:
    """The lines of a pipe, a terminal or a redirected file. It has no positions.

    Args:
        fd: The file descriptor to read; it remains open.
    """

    problem: str | None = None

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._lines = LineSplitter(MAX_LINE_BYTES)
        self._waiting: deque[bytes] = deque()
        self._ended = False

    @classmethod
    def at(cls, address: Address, position: Position | None, timestamp: str | None) -> StdinSource:
        """Open `stdin:`."""
        address.expect_options()
        address.expect_no_place()
        return cls()

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events; see `Source`."""
        if not self._waiting and not self._ended and self._ready(timeout_s):
            self._fill()
        if not self._waiting and self._ended:
            raise EndOfStreamError("standard input was closed")
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH_EVENTS, len(self._waiting)))]

    def position(self) -> Position:
        """Return no position: what was read cannot be read again."""
        return {}

    def close(self) -> None:
        """Stop reading."""
        self._ended = True
        self._waiting.clear()

    def _ready(self, timeout_s: float) -> bool:
        return bool(select.select([self._fd], [], [], timeout_s)[0])

    def _fill(self) -> None:
        if chunk := os.read(self._fd, CHUNK_BYTES):
            self._waiting.extend(self._lines.feed(chunk))
        else:
            self._ended = True
            self._waiting.extend(self._lines.end())
