"""Events that others send over TCP, one a line, on a port of this machine."""

from __future__ import annotations

import selectors
import socket
from collections import deque

from client.connectors.addresses import Address, AddressError
from client.connectors.sources.contract import MAX_LINE_BYTES, Ended, Position, SourceError
from client.connectors.sources.lines import LineSplitter
from client.data.recent_events import MAX_BATCH_EVENTS

CHUNK_BYTES = 1 << 16
MAX_CONNECTIONS = 64
"""More are closed as they come."""


class TcpSource:
    """Listens, and reads the lines of all who connect; nobody else is disturbed when one of them fails.

    While lines wait, nothing is read: a sender that is faster than the detector is slowed down by TCP.
    """

    problem: str | None = None

    def __init__(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            SourceError: the address is in use, or not this machine's.
        """
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise SourceError(f"tcp://{host}:{port}: cannot listen: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._connections: dict[socket.socket, LineSplitter] = {}
        self._waiting: deque[bytes] = deque()
        self._closed = False

    @classmethod
    def at(cls, address: Address, position: Position | None) -> TcpSource:
        """The source at `tcp://HOST:PORT`; what was sent once does not come again."""
        address.only()
        if not address.place.startswith("//"):
            raise AddressError(f"{address.text}: expected tcp://HOST:PORT")
        return cls(*address.endpoint(address.place[2:], None, "tcp://HOST:PORT, to listen on"))

    def read(self, timeout_s: float) -> list[bytes]:
        """The events that wait; see `Source`."""
        if self._closed:
            raise Ended("closed")
        if not self._waiting:
            for key, _ in self._selector.select(timeout_s):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)  # noqa: S101
                    self._receive(key.fileobj)
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH_EVENTS, len(self._waiting)))]

    def position(self) -> Position:
        """There is no way back."""
        return {}

    def close(self) -> None:
        """Close all connections, and listen no more."""
        if not self._closed:
            self._closed = True
            for connection in list(self._connections):
                self._drop(connection)
            self._selector.close()
            self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it was gone again
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        # A machine that lost its power sends nothing, not even a goodbye.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections[connection] = LineSplitter(MAX_LINE_BYTES)
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, connection: socket.socket) -> None:
        lines = self._connections[connection]
        try:
            chunk = connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._waiting.extend(lines.feed(chunk))
        else:
            self._waiting.extend(lines.end())
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._connections[connection]
        connection.close()
