"""An ASGI application, served in a thread of its own."""

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
    """Listens from the moment it is made until it is closed.

    Args:
        name: Of the thread.
        app: Answers the requests.
        host: To listen on.
        port: To listen on; 0: any free one.
        end_within_s: How long requests may go on once it is closed.
        after: Awaited in the same loop when all is over.
        **more: Of `uvicorn.Config`.

    Raises:
        OSError: the address is in use, or not this machine's.
    """

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        host: str,
        port: int,
        end_within_s: int,
        after: Callable[[], Awaitable[None]] | None = None,
        **more: Any,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.port = int(self._socket.getsockname()[1])
        self._after = after
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
                **more,
            )
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        deadline = time.monotonic() + START_WITHIN_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)  # uvicorn does not end in order before it has begun
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
            if self._after is not None:
                await self._after()
