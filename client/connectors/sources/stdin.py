"""Events on standard input, one a line."""

from __future__ import annotations

import os
import select
from collections import deque

from client.connectors.addresses import Address
from client.connectors.sources.contract import MAX_LINE_BYTES, Ended, Position
from client.connectors.sources.lines import LineSplitter
from client.data.recent_events import MAX_BATCH_EVENTS

CHUNK_BYTES = 1 << 16


class StdinSource:
    """The lines that a pipe, a terminal or a file gives."""

    problem: str | None = None

    def __init__(self, fd: int = 0) -> None:
        """Read the lines of a file descriptor, which stays the caller's to close."""
        self._fd = fd
        self._lines = LineSplitter(MAX_LINE_BYTES)
        self._waiting: deque[bytes] = deque()
        self._ended = False

    @classmethod
    def at(cls, address: Address, position: Position | None) -> StdinSource:
        """The source at `stdin:`; what was read once does not come again."""
        address.only()
        address.nothing()
        return cls()

    def read(self, timeout_s: float) -> list[bytes]:
        """The events that wait; see `Source`."""
        if not self._waiting and not self._ended and self._ready(timeout_s):
            self._fill()
        if not self._waiting and self._ended:
            raise Ended("standard input was closed")
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH_EVENTS, len(self._waiting)))]

    def position(self) -> Position:
        """There is no way back."""
        return {}

    def close(self) -> None:
        """Read no more."""
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
