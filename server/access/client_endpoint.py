"""The endpoint that clients connect to: SuperLink itself on the loopback address, else the gateway."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import ConfigError
from common.security.certificates import (
    CertificateError,
    expiry_warning,
    server_certificate_problems,
)
from common.security.hosts import is_loopback, parse_address
from common.settings import ServerSettings
from server.flower.superlink_process import free_port
from server.http.connections import Connections

if TYPE_CHECKING:
    from server.access.listener import Listener

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

MIN_UPDATE_BYTES, UPDATE_FACTOR = 4 << 20, 4
"""An update may have this many bytes, and this many times the size of the newest version's file."""
MAX_FIRST_BYTES = 64 << 20
"""Largest message of a client before there is a version: descriptions, of up to 65,536 features."""


class ClientEndpoint:
    """The address that clients connect to.

    On the loopback address without TLS, clients connect to SuperLink. Otherwise SuperLink listens on the
    loopback address, and clients connect to the gateway.

    Attributes:
        superlink_host: The address that SuperLink must listen on.
        superlink_port: The port that SuperLink must listen on.

    Args:
        settings: Host, port and TLS files.
        folder: The state folder, which contains the roster.

    Raises:
        ConfigError: other machines can reach the host, and TLS is neither configured nor waived.
        CertificateError: the certificate or its key cannot be used.
    """

    def __init__(self, settings: ServerSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._listener: Listener | None = None
        certificate, key = settings.tls_certificate, settings.tls_key
        if certificate is not None and key is not None:
            hosts = [] if _is_wildcard(settings.host) else [settings.host]
            if problems := list(server_certificate_problems(certificate, key, hosts)):
                raise CertificateError("\n".join(problems))
            if (warning := expiry_warning(certificate)) is not None:
                log.warning("the server's certificate expires soon %s", warning)
        elif not is_loopback(settings.host):
            if not settings.insecure:
                raise ConfigError(
                    f"'server.host' is {settings.host}, which other machines can reach, and TLS is off: set "
                    "server.tls_certificate and server.tls_key (`flockwatch certs make` creates them), or "
                    "server.insecure to true on a network whose users may all read the traffic and join"
                )
            log.warning(
                "TLS is off: anyone on the network can read the traffic and join host=%s", settings.host
            )
        self._has_gateway = certificate is not None or not is_loopback(settings.host)
        self.superlink_host = LOOPBACK if self._has_gateway else settings.host
        self.superlink_port = settings.port
        if self._has_gateway:
            self.superlink_port = settings.superlink_port or free_port()

    def open(self) -> None:
        """Start the gateway, if there is one.

        Raises:
            ListenError: the server cannot listen on the address.
        """
        if not self._has_gateway:
            return
        # These import Flower, which takes seconds; a server without a gateway does not need them.
        from server.access.audit import AuditLog
        from server.access.gateway import Gateway
        from server.access.listener import Listener, gateway_limits
        from server.access.roster import Roster

        settings = self._settings
        roster = Roster(self._folder) if settings.tls_certificate is not None else None
        connections = Connections(gateway_limits())
        gateway = Gateway(
            self.superlink_port, roster, self._alerts_address(), connections, self._max_update_bytes,
            AuditLog(self._folder),
        )  # fmt: skip
        self._listener = Listener(
            settings.host.strip("[]"),
            settings.port,
            gateway,
            settings.tls_certificate,
            settings.tls_key,
            connections,
        )

    def _max_update_bytes(self) -> int:
        """Return the largest size of a client's message, by the size of the newest version."""
        sizes = [
            path.stat().st_size for path in sorted((self._folder / "versions").glob("v*.safetensors"))[-1:]
        ]
        return MIN_UPDATE_BYTES + UPDATE_FACTOR * sizes[0] if sizes else MAX_FIRST_BYTES

    def _alerts_address(self) -> tuple[str, int] | None:
        """Return the address of the status server for the gateway; None if it accepts no notices."""
        if self._settings.status is None or self._settings.alerts_token is None:
            return None
        host, _, port = self._settings.status.rpartition(":")
        host = host.strip("[]")
        return (LOOPBACK if _is_wildcard(host) else host), int(port)

    def close(self) -> None:
        """Stop the gateway."""
        if self._listener is not None:
            self._listener.close()


def _is_wildcard(host: str) -> bool:
    """Return whether a host means all addresses of this machine, such as 0.0.0.0."""
    address = parse_address(host)
    return address is not None and address.is_unspecified
