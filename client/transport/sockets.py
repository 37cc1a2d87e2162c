"""Counts the bytes on a client's sockets: HTTP with its headers, before encryption."""

from __future__ import annotations

from typing import Any

import httpcore
from flwr.supernode.fleet_http_client import FleetHttpClient

from common.protocol.traffic import Meter


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
