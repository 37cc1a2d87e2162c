"""An HTTP server for an ASGI application, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

START_WITHIN_S = 10.0


class WebServer:
    """Serves an application from construction until it is closed.

    Args:
        name: Name of the thread.
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        end_within_s: How long open requests may continue after `close`, in seconds.
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
        on_end: Callable[[], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.port = int(self._socket.getsockname()[1])
        self._on_end = on_end
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
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
        self._socket.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            if self._on_end is not None:
                await self._on_end()
