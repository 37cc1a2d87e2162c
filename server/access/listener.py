"""Serves the gateway to the clients, with TLS."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Any

from server.access.gateway import Gateway, Refusals
from server.web import WebServer

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""An idle client keeps its connection: a new one costs a TLS handshake."""
END_WITHIN_S = 1

IN_WORDS = {
    "HTTP_REQUEST": "plain HTTP where TLS is spoken: the client needs client.tls_ca",
    "ALERT_UNKNOWN_CA": "the client does not trust the CA of this server's certificate",
    "ALERT_CERTIFICATE_EXPIRED": "the client says that this server's certificate has expired",
    "ALERT_BAD_CERTIFICATE": "the client does not accept this server's certificate, or not for this name",
}
"""What went wrong, by how OpenSSL calls it."""


class ListenError(RuntimeError):
    """The address cannot be listened on."""


class Listener:
    """Listens from the moment it is made until it is closed.

    Args:
        host: To listen on.
        port: To listen on; 0: any free one.
        gateway: Answers the requests.
        certificate: PEM file of the server's certificate; None: plain HTTP.
        key: Its private key.

    Raises:
        ListenError: the address is in use, or not this machine's.
    """

    def __init__(
        self, host: str, port: int, gateway: Gateway, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        context = None if certificate is None else _context(certificate, key)
        try:
            self._web = WebServer(
                "gateway",
                gateway,
                host,
                port,
                END_WITHIN_S,
                after=gateway.close,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                ssl_context_factory=None if context is None else lambda *_: context,
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port}: {error.strerror}; "
                "set server.host and server.port to a free address"
            ) from error
        self.port = self._web.port
        spoken = "plain HTTP" if context is None else "TLS"
        log.info("clients are served address=%s:%d by=%s", host, self.port, spoken)

    def close(self) -> None:
        """Stop serving."""
        self._web.close()


def _context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.sslobject_class = _telling(Refusals())
    return context


def _telling(refusals: Refusals) -> type[ssl.SSLObject]:
    """A TLS stream that says why a handshake failed; asyncio itself keeps that to itself."""

    class Telling(ssl.SSLObject):
        def do_handshake(self, *arguments: Any) -> None:
            try:
                super().do_handshake(*arguments)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                said = str(error.reason or error)
                words = next((text for name, text in IN_WORDS.items() if name in said), said)
                if refusals.due(words, time.monotonic()):
                    log.warning("TLS handshake failed reason=%s", words)
                raise

    return Telling
