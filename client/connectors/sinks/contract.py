"""The contract of sinks."""

from __future__ import annotations

from typing import Protocol

TIMEOUT_S = 10.0
"""Longest time that a delivery may take."""


class RefusedError(OSError):
    """The receiver refuses this notice for good: another attempt would end alike."""


class NotYetError(OSError):
    """The receiver asks to be left alone for a time.

    Args:
        message: What it answered.
        after_s: Seconds until the next attempt.
    """

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class Sink(Protocol):
    """Delivers notices, one at a time, in one thread of the outbox (`client.connectors.outbox`).

    A sink has a class method `at(address)`, which opens it; see `open_sink`.
    """

    def deliver(self, notice: bytes) -> None:
        """Deliver one JSON object; return when the receiver has it.

        Raises:
            OSError: the receiver does not have it, or may not have it; the message names the sink.
            RefusedError: it does not take this notice, so the next ones have their turn.
            NotYetError: it names the time of the next attempt.
        """
        ...

    def close(self) -> None:
        """Close files and connections. A second call does nothing."""
        ...


def reason(error: Exception) -> str:
    """Return the message of an error, without the error number.

    >>> reason(ConnectionRefusedError(111, "Connection refused")), reason(TimeoutError())
    ('Connection refused', 'TimeoutError')
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
