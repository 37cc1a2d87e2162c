"""An HTTP server for an ASGI application, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server.http.bounded_http import BoundedProtocol
from server.http.connections import Connections, Peer

log = logging.getLogger(__name__)

START_WITHIN_S = 10.0
PAUSE_S = 0.1
"""Pause before the next attempt when a connection cannot be accepted, since no descriptor is free."""
LOG_EVERY_S = 60.0
"""Connections that a limit has closed are logged at most once in this time."""


class WebServer:
    """Serves an application from construction until it is closed.

    Args:
        name: Name of the thread.
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        end_within_s: How long open requests may continue after `close`, in seconds.
        connections: Limits the connections.
        tls: The context of TLS; None for plain HTTP.
        on_end: Awaited in the server's event loop after the last request.
        **options: Further options of `uvicorn.Config`.

    Raises:
        OSError: the address is in use, or is not an address of this machine.
    """

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        host: str,
        port: int,
        end_within_s: int,
        connections: Connections,
        tls: ssl.SSLContext | None = None,
        on_end: Callable[[], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._name, self._connections, self._tls, self._on_end = name, connections, tls, on_end
        self._opening: set[asyncio.Task[None]] = set()
        self._log_at, self._logged = 0.0, 0
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                lifespan="off",
                ws="none",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=end_within_s,
                **options,
            )
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        deadline = time.monotonic() + START_WITHIN_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)  # uvicorn ignores should_exit until it has started
        self._server.should_exit = True
        self._thread.join(START_WITHIN_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        try:
            await self._server.serve(sockets=[])
        finally:
            for task in (accepting, *self._opening):
                task.cancel()
            self._socket.close()
            if self._on_end is not None:
                await self._on_end()

    async def _accept(self) -> None:
        """Accept connections until cancelled. Neither an error nor a limit ends it."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError as error:  # no descriptor is free, or the other side has gone
                if not self._connections.relieve():
                    log.warning("connection not accepted server=%s reason=%s", self._name, error)
                self._log_limits()
                await asyncio.sleep(PAUSE_S)
                continue
            peer: Peer = (str(address[0]), int(address[1]))
            task = loop.create_task(self._open(connection, peer))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            # A task that is cancelled before it has begun closes nothing itself.
            task.add_done_callback(partial(_close_if_cancelled, connection))
            if not self._connections.enter(peer, task.cancel):
                task.cancel()
            self._log_limits()

    async def _open(self, connection: socket.socket, peer: Peer) -> None:
        """Make a connection ready for requests. Meanwhile it can only be cancelled."""
        loop = asyncio.get_running_loop()
        protocol = BoundedProtocol(
            self._connections,
            config=self._server.config,
            server_state=self._server.server_state,
            app_state={},
            _loop=loop,
        )
        options = {} if self._tls is None else {"ssl_handshake_timeout": self._connections.limits.head_s}
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, **options
            )
        except OSError:  # the other side has gone, or failed to agree on TLS
            self._connections.leave(peer)
            connection.close()
            return
        if not self._connections.opened(peer, transport.abort):
            transport.abort()

    def _log_limits(self) -> None:
        """Log how many connections the limits have closed."""
        now, closed = time.monotonic(), self._connections.closed
        if closed > self._logged and now >= self._log_at:
            log.warning(
                "too many connections server=%s open=%d closed=%d",
                self._name, len(self._connections), closed - self._logged,
            )  # fmt: skip
            self._log_at, self._logged = now + LOG_EVERY_S, closed


def _close_if_cancelled(connection: socket.socket, task: asyncio.Task[None]) -> None:
    if task.cancelled():
        connection.close()
