"""HTTP connections whose requests have limits: the size of their heads, and the time for heads and bodies."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http.connections import Connections

MIN_BYTES_PER_S = 8 * 1024
"""Slowest transfer of a body that is accepted."""
MAX_TIMED_BYTES = 256 << 20
"""Size from which the time for a body grows no further."""

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It is closed when a head is too large, or a head or a body takes too long.

    The time for a head runs from the start of the connection, and from the first byte of each later request:
    between requests a connection may be idle for as long as uvicorn's keep-alive allows.

    Args:
        connections: The connections of the port; this one leaves them when it ends.
        **options: Arguments of uvicorn's protocol.
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections, self._limits = connections, connections.limits
        self._in_head, self._head_bytes = True, 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head."""
        super().connection_made(transport)
        self._time(self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the open ones of the port."""
        self._cancel()
        if self.client is not None:
            self._connections.leave(self.client)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._time(self._limits.head_s)
        super().data_received(data)
        if self._in_head and self._head_bytes > self._limits.head_bytes:
            self._refuse(TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the time for the body."""
        self._in_head = False
        declared = next((value for name, value in self.headers if name == b"content-length"), b"0")
        length = min(int(declared), MAX_TIMED_BYTES) if declared.isdigit() else 0
        self._time(self._limits.body_s + length / MIN_BYTES_PER_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the time for the body."""
        self._in_head, self._head_bytes = True, 0
        self._cancel()
        super().on_message_complete()

    def _time(self, seconds: float) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, self._refuse, TOO_LATE)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, answer: bytes) -> None:
        """Answer and close, if no response has begun; else only close."""
        self._cancel()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self.transport.close()
