"""A small HTTP server for probes, scrapers and people: a few pages, rendered for each request."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

from common.security.hosts import HostCheck

MAX_CONNECTIONS = 32
"""For a further connection, the one that has been open for the longest time is closed."""
MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a request that are read; its body is not."""

log = logging.getLogger(__name__)

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Returns the status code, the content type and the body; called in a thread of its own for each request."""


class HttpServer:
    """Serves pages until it is closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        pages: The pages by path.
        hosts: Further names of this machine, of `live.status_hosts`; see `HostCheck`.

    Raises:
        OSError: the address is in use, or not an address of this machine.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page], hosts: Iterable[str] = ()) -> None:
        check = HostCheck(host, hosts, "live.status_hosts")

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def setup(self) -> None:
                super().setup()
                self.rfile: Any = _Head(self.rfile)

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if refusal := check.refusal(self.headers.get("Host", "")):
                    self._respond(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", f"{refusal}\n".encode())
                elif page is None:
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

        self._server = _LimitedServer((host, port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _LimitedServer(ThreadingHTTPServer):
    """A server with a thread for each of at most `MAX_CONNECTIONS` connections."""

    daemon_threads = True
    request_queue_size = 128  # of the usual 5, a burst of connections costs seconds

    def __init__(self, *arguments: Any) -> None:
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread; first make room for it."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest, _ = self._open.popitem(last=False)
                with suppress(OSError):  # its thread closes it
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has been answered."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a defect in a page, and say nothing of a connection that breaks off."""
        if not isinstance(error := sys.exc_info()[1], OSError):
            log.error("page failed reason=%s", error, exc_info=error)


class _Head:
    """The head of a request, of which `MAX_HEAD_BYTES` are read; the lines after them are empty.

    Args:
        file: The file of the connection.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_HEAD_BYTES

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def readline(self, size: int = -1) -> bytes:
        """Return the next line, or its first `size` bytes."""
        line = self._file.readline(self._left if size < 0 else min(size, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()
