"""The traffic of a client's process: bytes of HTTP on its sockets, and seconds of encoding and decoding."""

from __future__ import annotations

import threading

import msgspec
from msgspec.structs import astuple

from common.bounds import Seconds, Total

MIN_TIMED_BYTES = 16 * 1024
"""The duration of a smaller request depends more on the server's latency than on the link's speed."""

COUNTED = ("sent_bytes", "received_bytes", "replies_bytes", "timed_bytes", "timed_s")
"""Fields of `Traffic` that the resident node counts and adds to its node configuration."""


class Traffic(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Running totals of one client's process.

    >>> Traffic(sent_bytes=5).since(Traffic(sent_bytes=2)).sent_bytes
    3
    """

    sent_bytes: Total = 0
    """All requests, with their headers: polls, heartbeats, replies."""
    received_bytes: Total = 0
    """All responses, with their headers."""
    replies_bytes: Total = 0
    """The part of `sent_bytes` that was replies to messages."""
    timed_bytes: Total = 0
    """Bytes moved, in either direction, by requests large enough to measure the link's speed."""
    timed_s: Seconds = 0.0
    """Duration of these requests."""
    encode_s: Seconds = 0.0
    decode_s: Seconds = 0.0

    def since(self, before: Traffic) -> Traffic:
        """Return the traffic after `before`; all of it if the process has restarted since."""
        now, then = astuple(self), astuple(before)
        if any(new < old for new, old in zip(now, then, strict=True)):
            return self
        return Traffic(*(new - old for new, old in zip(now, then, strict=True)))


class Meter:
    """Counts the bytes of all threads together, and of each thread by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()
        self._sent = self._received = self._replies = self._timed = 0
        self._timed_s = 0.0

    def count(self, sent: int = 0, received: int = 0) -> None:
        """Add bytes that this thread has sent or received."""
        self._own.sent, self._own.received = self.own[0] + sent, self.own[1] + received
        with self._lock:
            self._sent += sent
            self._received += received

    @property
    def own(self) -> tuple[int, int]:
        """Bytes that this thread has sent and received."""
        return getattr(self._own, "sent", 0), getattr(self._own, "received", 0)

    def request(self, before: tuple[int, int], took_s: float, reply: bool = False) -> None:
        """Record the end of a request.

        Args:
            before: The value of `own` when it began.
            took_s: Its duration in seconds.
            reply: Whether it delivered a reply to a message.
        """
        sent, received = (now - then for now, then in zip(self.own, before, strict=True))
        with self._lock:
            if reply:
                self._replies += sent
            if sent + received >= MIN_TIMED_BYTES:
                self._timed += sent + received
                self._timed_s += took_s

    @property
    def traffic(self) -> Traffic:
        """Totals of all threads."""
        with self._lock:
            return Traffic(self._sent, self._received, self._replies, self._timed, round(self._timed_s, 6))
