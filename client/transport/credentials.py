"""A client's credentials for TLS: the CA that it trusts, and its private key."""

from __future__ import annotations

import logging

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from common.security.certificates import root_certificates
from common.security.hosts import is_loopback
from common.security.keys import fingerprint, read_private_key
from common.settings import ClientSettings

log = logging.getLogger(__name__)


def credentials(settings: ClientSettings) -> tuple[bytes | None, EllipticCurvePrivateKey | None]:
    """Return the CA certificates to verify the server with, and the client's key; both None for plain HTTP.

    Raises:
        CertificateError: the file of the CA cannot be used.
        KeyFileError: the key cannot be used.
    """
    if settings.tls_ca is None or settings.key is None:
        host = settings.server.rpartition(":")[0]
        if not is_loopback(host):
            log.warning(
                "updates are not encrypted on their way: set client.tls_ca and client.key host=%s", host
            )
        return None, None
    key = read_private_key(settings.key)
    log.info("this client's key fingerprint=%s", fingerprint(key.public_key()))
    return root_certificates(settings.tls_ca), key
