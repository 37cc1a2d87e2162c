"""A small HTTP server for probes, scrapers and people: a few pages, rendered for each request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Returns the status code, the content type and the body; called in a thread of its own for each request."""


class HttpServer:
    """Serves pages until it is closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        pages: The pages by path.

    Raises:
        OSError: the address is in use, or not an address of this machine.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    body = f"not found; the paths are {', '.join(pages)}\n".encode()
                    self._respond(HTTPStatus.NOT_FOUND, "text/plain", body)
                else:
                    self._respond(*page())

            def _respond(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", content_type)
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
