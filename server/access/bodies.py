"""Bodies of requests, received from a client with a limit on their size, and passed on in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

READ_FIRST_BYTES = 64 * 1024
"""Bytes of a body that are received before a connection to SuperLink is used for it."""


class ClientDisconnectError(ConnectionError):
    """The client disconnected before its request was complete."""


class BodyTooLargeError(ValueError):
    """A request's body is larger than its path allows; the message names the limit."""


class RequestBody:
    """The body of a request, received with a limit.

    Args:
        receive: The ASGI channel from the client.
        max_bytes: The limit.
        headers: The request's headers.
    """

    def __init__(self, receive: Receive, max_bytes: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._declared = next((value for name, value in headers if name == b"content-length"), b"0")
        self._first: list[bytes] = []
        self._received, self._more = 0, True

    async def read_first(self) -> None:
        """Receive the beginning, so that a sender that stalls holds no connection to SuperLink.

        Raises:
            BodyTooLargeError: its size, or the size that its header declares, is above the limit.
            ClientDisconnectError: the client has gone.
        """
        if not self._declared.isdigit() or int(self._declared) > self._max_bytes:
            raise self._too_large()
        while self._more and self._received < READ_FIRST_BYTES:
            self._first.append(await self._next())

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the received part, then the rest as it arrives; raises the errors of `read_first`."""
        for chunk in self._first:
            yield chunk
        self._first.clear()
        while self._more:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectError
        chunk = bytes(message.get("body", b""))
        self._more = bool(message.get("more_body", False))
        self._received += len(chunk)
        if self._received > self._max_bytes:
            raise self._too_large()
        return chunk

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body has more than {self._max_bytes} bytes")
