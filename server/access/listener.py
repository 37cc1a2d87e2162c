"""Serves the gateway over TLS, or over plain HTTP."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Any

from common.processes.children import max_open_files
from server.access.gateway import Gateway, LogThrottle
from server.http.connections import Connections, Limits
from server.http.web import WebServer

log = logging.getLogger(__name__)

CLIENT_KEEP_ALIVE_S = 75
"""Time for which an idle client's connection is kept: a new one costs a TLS handshake."""
END_WITHIN_S = 1

TLS_FAILURES = {
    "HTTP_REQUEST": "the client uses plain HTTP, and this server needs TLS: set client.tls_ca on the client",
    "ALERT_UNKNOWN_CA": "the client does not trust the CA of this server's certificate",
    "ALERT_CERTIFICATE_EXPIRED": "the client reports that this server's certificate has expired",
    "ALERT_BAD_CERTIFICATE": "the client does not accept this server's certificate, or not for this host",
}
"""Explanations of failed TLS handshakes, by a part of OpenSSL's reason."""


MAX_CONNECTIONS = 16_384
"""Connections of clients, if this process may open that many files."""
RESERVED_FILES = 512
"""Descriptors for everything but connections of clients."""
MAX_UNKNOWN, MAX_PER_ADDRESS, MAX_PER_CLIENT = 1024, 256, 8
"""Limits of `server.http.connections.Limits`. A whole fleet may reconnect at once from one address (NAT)."""


def gateway_limits() -> Limits:
    """Return the limits of the gateway's connections, within the descriptors that this process may open."""
    connections = max(64, min(MAX_CONNECTIONS, max_open_files() - RESERVED_FILES))
    return Limits(
        connections,
        unknown=min(MAX_UNKNOWN, connections),
        per_address=min(MAX_PER_ADDRESS, connections),
        per_client=MAX_PER_CLIENT,
    )


class ListenError(RuntimeError):
    """The server cannot listen on the address."""


class Listener:
    """An HTTP server for the gateway, which listens from construction until it is closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        gateway: The application to serve.
        certificate: PEM file with the server's certificate; None for plain HTTP.
        key: PEM file with its private key.
        connections: The connections, shared with the gateway; None: new ones, with `gateway_limits`.

    Raises:
        ListenError: the address is in use, or is not an address of this machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        gateway: Gateway,
        certificate: Path | None = None,
        key: Path | None = None,
        connections: Connections | None = None,
    ) -> None:
        context = None if certificate is None else _context(certificate, key)
        try:
            self._web = WebServer(
                "gateway",
                gateway,
                host,
                port,
                END_WITHIN_S,
                connections or Connections(gateway_limits()),
                context,
                on_end=gateway.close,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=CLIENT_KEEP_ALIVE_S,
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port}: {error.strerror}; "
                "set server.host and server.port to a free address"
            ) from error
        self.port = self._web.port
        protocol = "plain HTTP" if context is None else "TLS"
        log.info("listening for clients address=%s:%d protocol=%s", host, self.port, protocol)

    def close(self) -> None:
        """Stop serving."""
        self._web.close()


def _context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.sslobject_class = _logging_ssl_object(LogThrottle())
    return context


def _logging_ssl_object(throttle: LogThrottle) -> type[ssl.SSLObject]:
    """Return a subclass of `SSLObject` that logs failed handshakes, which asyncio does not."""

    class LoggingSSLObject(ssl.SSLObject):
        def do_handshake(self, *arguments: Any) -> None:
            try:
                super().do_handshake(*arguments)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                openssl_reason = str(error.reason or error)
                reason = next(
                    (t for name, t in TLS_FAILURES.items() if name in openssl_reason), openssl_reason
                )
                if throttle.allows(reason, time.monotonic()):
                    log.warning("TLS handshake failed reason=%s", reason)
                raise

    return LoggingSSLObject
