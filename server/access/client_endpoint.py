"""How clients come in: straight to SuperLink on this machine, by the gateway from any other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import ConfigError
from common.security.certificates import (
    CertificateError,
    expiry_warning,
    is_loopback,
    parse_address,
    server_certificate_problems,
)
from common.settings import ServerSettings
from server.flower.superlink_process import free_port

if TYPE_CHECKING:
    from server.access.listener import Listener

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class ClientEndpoint:
    """Where clients connect, as the settings say.

    Without TLS on the loopback address that is SuperLink itself. Otherwise SuperLink keeps to the loopback
    address, and clients come to the gateway.

    Args:
        settings: Host, port, certificate.
        folder: The state folder, with the roster.

    Raises:
        ConfigError: it would listen to other machines without TLS.
        CertificateError: the certificate cannot work.
    """

    def __init__(self, settings: ServerSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._listener: Listener | None = None
        certificate, key = settings.tls_certificate, settings.tls_key
        if certificate is not None and key is not None:
            hosts = [] if _is_any(settings.host) else [settings.host]
            if problems := list(server_certificate_problems(certificate, key, hosts)):
                raise CertificateError("\n".join(problems))
            if (warning := expiry_warning(certificate)) is not None:
                log.warning("the server's certificate ends soon %s", warning)
        elif not is_loopback(settings.host):
            if not settings.insecure:
                raise ConfigError(
                    f"'server.host' is {settings.host}, which other machines reach, and there is no TLS: set "
                    "server.tls_certificate and server.tls_key (`flockwatch certs make` makes them), or "
                    "server.insecure to true on a network where everybody may read and take part"
                )
            log.warning("no TLS: everybody on the network can read and take part host=%s", settings.host)
        self._guarded = certificate is not None or not is_loopback(settings.host)
        self.superlink_host = LOOPBACK if self._guarded else settings.host
        self.superlink_port = settings.port
        if self._guarded:
            self.superlink_port = settings.superlink_port or free_port()

    def open(self) -> None:
        """Let clients in; where SuperLink itself listens to them, there is nothing to do.

        Raises:
            ListenError: the address cannot be listened on.
        """
        if not self._guarded:
            return
        # Seconds of Flower's imports, which a server without a gateway does without.
        from server.access.gateway import Gateway
        from server.access.listener import Listener
        from server.access.roster import Roster

        settings = self._settings
        roster = Roster(self._folder) if settings.tls_certificate is not None else None
        gateway = Gateway(self.superlink_port, roster, self._alerts())
        self._listener = Listener(
            settings.host.strip("[]"), settings.port, gateway, settings.tls_certificate, settings.tls_key
        )

    def _alerts(self) -> tuple[str, int] | None:
        """Where the status address is reached from here, if it takes alerts."""
        if self._settings.status is None or self._settings.alerts_token is None:
            return None
        host, _, port = self._settings.status.rpartition(":")
        host = host.strip("[]")
        return (LOOPBACK if _is_any(host) else host), int(port)

    def close(self) -> None:
        """Let nobody in any more."""
        if self._listener is not None:
            self._listener.close()


def _is_any(host: str) -> bool:
    address = parse_address(host)
    return address is not None and address.is_unspecified
