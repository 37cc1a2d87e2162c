"""What every source promises."""

from __future__ import annotations

from typing import Any, Protocol

from common.errors import UserError

Position = dict[str, Any]
"""Where to go on after a restart, in JSON values; {} where the source keeps no place."""

MAX_LINE_BYTES = 1 << 20
"""Bytes of the longest event; of a longer one, one byte more than this is handed on, to be refused."""


class SourceError(UserError):
    """A source can never work; says what was wrong and what was expected."""


class Ended(Exception):
    """No event will ever come again."""


class Source(Protocol):
    """Events of a live stream, each one line of bytes without its newline. One thread at a time calls it."""

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events, oldest first, at most `MAX_BATCH_EVENTS`; [] if none came in `timeout_s`.

        Waits for the first event only: a lone one is returned at once.

        Raises:
            Ended: no event will ever come again.
        """
        ...

    def position(self) -> Position:
        """What to open this source with to go on after the last event that `read` returned."""
        ...

    def close(self) -> None:
        """Let go of files and connections; closing twice is closing once."""
        ...

    @property
    def problem(self) -> str | None:
        """What is wrong now and is being mended without help; None when all is well."""
        ...


def whole(position: Position | None, *names: str) -> list[int] | None:
    """The whole numbers a position holds under these names, None when there is no position.

    Raises:
        SourceError: one is missing or not a whole number from zero on.
    """
    if not position:
        return None
    values = [position.get(name) for name in names]
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise SourceError(f"position {position}: expected whole numbers for {', '.join(names)}")
    return [int(value) for value in values if value is not None]
