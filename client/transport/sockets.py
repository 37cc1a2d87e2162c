"""Counts the bytes on a client's sockets: HTTP with its headers, before encryption."""

from __future__ import annotations

import threading
from typing import Any

import httpcore
from flwr.supernode.fleet_http_client import FleetHttpClient

from common.protocol.messages import Traffic

MIN_TIMED_BYTES = 16 * 1024
"""The duration of a smaller request depends more on the server's latency than on the link's speed."""


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


def count_bytes(client: FleetHttpClient, meter: Meter) -> None:
    """Have the meter count the bytes on the client's sockets: HTTP with its headers, before encryption."""
    pool = client._client._transport._pool  # type: ignore[attr-defined]
    pool._network_backend = _CountingBackend(pool._network_backend, meter)


class _CountingBackend(httpcore.NetworkBackend):
    """Opens sockets whose bytes are counted."""

    def __init__(self, inner: httpcore.NetworkBackend, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _CountedStream(self._inner.connect_tcp(*args, **kwargs), self._meter)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _CountedStream(httpcore.NetworkStream):
    """A socket whose bytes are counted, or the TLS stream on top of one."""

    def __init__(self, inner: httpcore.NetworkStream, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        content = self._inner.read(max_bytes, timeout)
        self._meter.count(received=len(content))
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        self._meter.count(sent=len(buffer))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _CountedStream(self._inner.start_tls(*args, **kwargs), self._meter)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
