"""`flockwatch certs`: creates and checks a CA, the server's certificate and the keys of clients."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.security.certificates import (
    CertificateError,
    ca_problems,
    certificate_hosts,
    expiry_warning,
    read_certificates,
    server_certificate_problems,
)
from common.security.hosts import parse_address
from common.security.keys import (
    KeyFileError,
    encode_private_key,
    fingerprint,
    new_private_key,
    public_key_line,
    read_private_key,
    read_public_key,
)

CA_DAYS = 3650
SERVER_DAYS = 365
SKEW = timedelta(hours=1)
"""Certificates are valid from this long before their creation, because clocks differ."""

HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts of every server certificate, for clients on the server's machine."""


class Certificates:
    """A folder with `ca.pem`, `ca.key`, `server.pem`, `server.key`, `clients/NAME.key` and `.pub`.

    The server needs `server.pem` and `server.key`, each client `ca.pem` and its own key. `ca.key` issues
    certificates; no process of flockwatch needs it, and it is best stored on another machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca.key"
        self.server, self._server_key = folder / "server.pem", folder / "server.key"
        self._clients = folder / "clients"

    def make(
        self, hosts: Sequence[str], clients: Iterable[str], days: int = SERVER_DAYS, renew: bool = False
    ) -> Iterator[str]:
        """Create the files that are missing.

        Args:
            hosts: Host names and IP addresses under which clients reach the server, beside `LOCAL_HOSTS`.
            clients: Names of clients to create a key for.
            days: Lifetime of the server's certificate.
            renew: Whether to replace the server's certificate and key, for its hosts and new ones.

        Yields:
            A line for each file that was created.

        Raises:
            CertificateError, KeyFileError: no certificate can be issued with the CA's files.
            OSError: the folder cannot be written.
        """
        for host in hosts:
            if HOST.fullmatch(host) is None and parse_address(host) is None:
                raise CertificateError(f"'{host}': expected a host name or an IP address, without a port")
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.ca.exists() and not self._ca_key.exists():
            key = new_private_key()
            _write(self._ca_key, encode_private_key(key, tls=True), secret=True)
            _write(self.ca, _ca_certificate(key).public_bytes(Encoding.PEM))
            yield f"{self.ca}: new CA, valid for {CA_DAYS} days; store its key {self._ca_key} offline"
        if renew or not self.server.exists():
            names = [
                *hosts,
                *(certificate_hosts(read_certificates(self.server)[0]) if self.server.exists() else ()),
            ]
            key = new_private_key()
            certificate = _server_certificate(
                key, [*names, *LOCAL_HOSTS], days, self._root(), read_private_key(self._ca_key)
            )
            _write(self._server_key, encode_private_key(key, tls=True), secret=True)
            _write(self.server, certificate.public_bytes(Encoding.PEM))
            covered = ", ".join(certificate_hosts(certificate))
            yield f"{self.server}: new certificate for {covered}; valid for {days} days"
        for name in clients:
            key_file, public_file = self._clients / f"{name}.key", self._clients / f"{name}.pub"
            if not key_file.exists():
                self._clients.mkdir(exist_ok=True)
                key = new_private_key()
                _write(key_file, encode_private_key(key), secret=True)
                _write(public_file, f"{public_key_line(key.public_key())} {name}\n".encode())
                yield f"{key_file}: new key, {fingerprint(key.public_key())}"

    def problems(self, hosts: Sequence[str] = ()) -> Iterator[str]:
        """Yield a line for each problem of the files in the folder.

        Args:
            hosts: Host names and IP addresses that the server's certificate must contain.
        """
        if not self._folder.is_dir():
            yield f"{self._folder}: no such folder"
            return
        yield from ca_problems(self.ca)
        yield from server_certificate_problems(self.server, self._server_key, hosts, self.ca)
        if self._ca_key.exists():
            try:
                issuer = read_private_key(self._ca_key)
                if all(issuer.public_key() != root.public_key() for root in read_certificates(self.ca)):
                    yield f"{self._ca_key}: is not the key of {self.ca}"
            except KeyFileError as error:
                yield str(error)
            except CertificateError:
                pass  # one of the problems above
        for key_file in sorted(self._clients.glob("*.key")):
            yield from _problems_of_client(key_file)

    def warnings(self) -> Iterator[str]:
        """Yield a line for each certificate that expires soon."""
        for file in (self.ca, self.server):
            if (warning := expiry_warning(file)) is not None:
                yield warning

    def _root(self) -> x509.Certificate:
        """Return the certificate that belongs to the CA's key.

        Raises:
            CertificateError, KeyFileError: there is none, or the files cannot be read.
        """
        issuer = read_private_key(self._ca_key).public_key()
        for root in read_certificates(self.ca):
            if root.public_key() == issuer:
                return root
        raise CertificateError(f"{self._ca_key}: is not the key of {self.ca}")


def _problems_of_client(key_file: Path) -> Iterator[str]:
    try:
        key = read_private_key(key_file)
        public = key_file.with_suffix(".pub")
        if public.exists() and read_public_key(public) != key.public_key():
            yield f"{key_file}: is not the private key of {public}"
    except KeyFileError as error:
        yield str(error)


def _ca_certificate(key: EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flockwatch CA")])
    usage = _usage(signs_certificates=True)
    return (
        _certificate_builder(name, name, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA384())
    )


def _server_certificate(
    key: EllipticCurvePrivateKey,
    hosts: Iterable[str],
    days: int,
    root: x509.Certificate,
    issuer: EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return a server certificate.

    Args:
        key: The server's private key.
        hosts: Host names and IP addresses; the first is the common name.
        days: Lifetime.
        root: The CA's certificate.
        issuer: The CA's private key.
    """
    unique = list(dict.fromkeys(hosts))
    names = [x509.IPAddress(a) if (a := parse_address(host)) else x509.DNSName(host) for host in unique]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unique[0][:64])])
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _certificate_builder(subject, root.subject, key, days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(issuer, SHA384())
    )


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(path: Path, content: bytes, secret: bool = False) -> None:
    """Write a file as a whole; other users can never read a secret one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644)
    with os.fdopen(file, "wb") as output:
        output.write(content)
        os.fsync(file)
    partial.replace(path)
