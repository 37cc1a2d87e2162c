"""The contract of sources."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

from client.data.streams.refusals import MAX_EVENT_BYTES
from common.errors import UserError

Position = dict[str, Any]
"""The place in a stream to continue from after a restart, in JSON values; {} without one."""

MAX_LINE_BYTES = MAX_EVENT_BYTES
"""Size of the longest line that is passed on whole; a longer line is cut to one byte more, which marks it."""


class SourceError(UserError):
    """A source can never work; the message says what is wrong and what was expected."""


class EndOfStreamError(Exception):
    """The source has ended: there will be no more events. The message says why."""


class Source(Protocol):
    """Events of a stream, each one line of bytes without its newline. One thread at a time calls it.

    A source has a class method `at(address, position, timestamp)`, which opens it; see `open_source`.
    """

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events, oldest first, at most `MAX_BATCH_EVENTS`; [] if none came in `timeout_s`.

        It waits for the first event only: a single event is returned at once.

        Raises:
            EndOfStreamError: there will be no more events.
        """
        ...

    def position(self) -> Position:
        """Return the position after the last event that `read` returned, to continue from in a new source."""
        ...

    def close(self) -> None:
        """Close files and connections. A second call does nothing."""
        ...

    @property
    def problem(self) -> str | None:
        """The current problem, from which the source tries to recover; None without one."""
        ...


def whole_numbers(position: Position | None, *names: str) -> list[int] | None:
    """Return the whole numbers that a position has under these names; None without a position.

    Raises:
        SourceError: a number is missing, negative or not whole.
    """
    if not position:
        return None
    values = [position.get(name) for name in names]
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise SourceError(f"position {position}: expected whole numbers for {', '.join(names)}")
    return [int(value) for value in values if value is not None]


def fingerprint(content: bytes) -> int:
    """Return a number that identifies bytes, and that a position can hold."""
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big")
