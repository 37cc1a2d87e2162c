"""The contract of sinks."""

from __future__ import annotations

from typing import Protocol

TIMEOUT_S = 10.0
"""Timeout of each step of a delivery."""


class RefusedError(OSError):
    """The receiver refuses this notice: another attempt would fail too."""


class NotYetError(OSError):
    """The receiver asks for a pause before the next attempt.

    Args:
        message: The answer of the receiver.
        after_s: Seconds until the next attempt.
    """

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class AnsweredError(OSError):
    """The receiver answers that it does not have the notice, and not whether the notice is the reason."""


class Sink(Protocol):
    """Delivers notices, one at a time, in one thread of the outbox (`client.connectors.outbox`).

    A sink has a class method `at(address)`, which opens it; see `open_sink`.
    """

    def deliver(self, notice: bytes) -> None:
        """Deliver one JSON object; return when the receiver has it.

        Raises:
            OSError: the receiver does not have it, or may not have it; the message names the sink.
            RefusedError: the receiver refuses this notice, so the outbox continues with the next one.
            NotYetError: the receiver names the time of the next attempt.
            AnsweredError: the receiver answers that something is wrong, perhaps with this notice: after many
                such answers the outbox tries another one.
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
