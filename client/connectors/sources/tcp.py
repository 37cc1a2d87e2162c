"""Events that other machines send over TCP, one per line, to a port of this machine."""

from __future__ import annotations

import logging
import selectors
import socket
from collections import OrderedDict, deque

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.addresses import Address, AddressError
from client.connectors.sources.contract import MAX_LINE_BYTES, EndOfStreamError, Position, SourceError
from client.connectors.sources.lines import LineSplitter

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16
MAX_CONNECTIONS = 64
"""For a further connection, the one that has been idle for the longest time is closed."""


class TcpSource:
    """Listens on a port and reads the lines of all connections. It has no positions.

    A connection that fails does not affect the others. While events wait, nothing is read, so that TCP slows
    down a sender that is faster than the detector.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.

    Raises:
        SourceError: the address is in use, or not an address of this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise SourceError(f"tcp://{host}:{port}: cannot listen: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._connections: OrderedDict[socket.socket, LineSplitter] = OrderedDict()
        """The open connections, the longest idle one first."""
        self._waiting: deque[bytes] = deque()
        self._closed = False
        self.problem: str | None = None
        """Says that idle connections are closed for new ones; None when a connection has ended since."""

    @classmethod
    def at(cls, address: Address, position: Position | None, timestamp: str | None) -> TcpSource:
        """Open `tcp://HOST:PORT`."""
        address.expect_options()
        if not address.place.startswith("//"):
            raise AddressError(f"{address.text}: expected tcp://HOST:PORT")
        return cls(*address.endpoint(address.place[2:], None, "tcp://HOST:PORT, to listen on"))

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events; see `Source`."""
        if self._closed:
            raise EndOfStreamError("closed")
        if not self._waiting:
            ready = [key.fileobj for key, _ in self._selector.select(timeout_s)]
            for connection in ready:
                if connection is not self._listener:
                    assert isinstance(connection, socket.socket)  # noqa: S101  only sockets are registered
                    self._receive(connection)
            if self._listener in ready:  # last: a connection with new lines is not idle
                self._accept()
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH_EVENTS, len(self._waiting)))]

    def position(self) -> Position:
        """Return no position: what was received is not sent again."""
        return {}

    def close(self) -> None:
        """Close all connections and stop listening."""
        if not self._closed:
            self._closed = True
            for connection in list(self._connections):
                self._drop(connection)
            self._selector.close()
            self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the other side has closed it already
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._close_idle()
        connection.setblocking(False)
        # A machine that loses its power does not close its connections: keepalive detects that.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections[connection] = LineSplitter(MAX_LINE_BYTES)
        self._selector.register(connection, selectors.EVENT_READ)

    def _close_idle(self) -> None:
        """Close the longest idle connection, and report it the first time."""
        idle = next(iter(self._connections))
        self._waiting.extend(self._connections[idle].end())
        self._drop(idle)
        if self.problem is None:
            self.problem = (
                f"tcp port {self.port}: more than {MAX_CONNECTIONS} connections; "
                "the longest idle ones are closed"
            )
            log.warning("too many connections port=%d max=%d", self.port, MAX_CONNECTIONS)

    def _receive(self, connection: socket.socket) -> None:
        lines = self._connections[connection]
        try:
            chunk = connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._connections.move_to_end(connection)
            self._waiting.extend(lines.feed(chunk))
        else:
            self._waiting.extend(lines.end())
            self._drop(connection)
            self.problem = None

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._connections[connection]
        connection.close()
