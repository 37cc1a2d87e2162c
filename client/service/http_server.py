"""A few pages over HTTP, made anew for each request: what probes, scrapers and people ask a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Gives the code, the content type and the body; called in another thread for each request."""


class HttpServer:
    """Serves pages until closed.

    Args:
        host: To listen on.
        port: 0: any free one.
        pages: By path.

    Raises:
        OSError: the address is in use, or not this machine's.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    body = f"there is {', '.join(pages)}\n".encode()
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", body)
                else:
                    self._answer(*page())

            def _answer(self, code: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
