"""What a client's messages cost: bytes of HTTP on its sockets, and seconds, since its process began."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

TIMED_BYTES = 16 * 1024
"""A request that moves less says more of the server's latency than of the link's speed."""

COUNTED = ("sent_bytes", "received_bytes", "replies_bytes", "timed_bytes", "timed_s")
"""Fields of `Traffic` that the resident client's link counts, and puts into the node's configuration."""


@dataclass(frozen=True)
class Traffic:
    """Running totals of one client's process.

    >>> Traffic(sent_bytes=5).since(Traffic(sent_bytes=2)).sent_bytes
    3
    """

    sent_bytes: int = 0
    """Of all requests, with their headers: polls, heartbeats, replies."""
    received_bytes: int = 0
    """Of all answers, with their headers."""
    replies_bytes: int = 0
    """Sent with replies to messages only."""
    timed_bytes: int = 0
    """Moved, either way, by requests large enough to tell the link's speed."""
    timed_s: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def since(self, before: Traffic) -> Traffic:
        """What came after `before`; all of it if the process has begun anew since."""
        names = [field.name for field in fields(self)]
        if any(getattr(self, name) < getattr(before, name) for name in names):
            return self
        return Traffic(**{name: getattr(self, name) - getattr(before, name) for name in names})


class Meter:
    """Counts bytes for several threads, and what each thread has moved itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()
        self._sent = self._received = self._replies = self._timed = 0
        self._timed_s = 0.0

    def count(self, sent: int = 0, received: int = 0) -> None:
        """Bytes that this thread has moved."""
        self._own.sent, self._own.received = self.own[0] + sent, self.own[1] + received
        with self._lock:
            self._sent += sent
            self._received += received

    @property
    def own(self) -> tuple[int, int]:
        """Bytes that this thread has sent and received."""
        return getattr(self._own, "sent", 0), getattr(self._own, "received", 0)

    def request(self, before: tuple[int, int], took_s: float, reply: bool = False) -> None:
        """A request is over, which began when `own` was `before`."""
        sent, received = (now - then for now, then in zip(self.own, before, strict=True))
        with self._lock:
            if reply:
                self._replies += sent
            if sent + received >= TIMED_BYTES:
                self._timed += sent + received
                self._timed_s += took_s

    @property
    def traffic(self) -> Traffic:
        """All threads' totals."""
        with self._lock:
            return Traffic(self._sent, self._received, self._replies, self._timed, round(self._timed_s, 6))
