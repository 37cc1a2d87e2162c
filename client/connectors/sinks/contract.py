"""What every sink promises."""

from __future__ import annotations

from typing import Protocol

TIMEOUT_S = 10.0
"""The longest that a delivery may take."""


class Sink(Protocol):
    """Takes notices, one at a time, from one thread of the outbox (`client.connectors.outbox`)."""

    def deliver(self, notice: bytes) -> None:
        """Hand over one JSON object; returns when the other side has it.

        Raises:
            OSError: the other side does not have it, or may not; the message names the sink and says why.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; closing twice is closing once."""
        ...


def reason(error: Exception) -> str:
    """What an error says, without its number.

    >>> reason(ConnectionRefusedError(111, "Connection refused")), reason(TimeoutError())
    ('Connection refused', 'TimeoutError')
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
