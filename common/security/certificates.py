"""What is wrong with certificates and keys, in words, before a TLS handshake fails on it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID

from common.errors import UserError
from common.security.keys import KeyFileError, read, read_tls_private

SOON = timedelta(days=30)
"""Whatever ends within this time is named before it does."""


class CertificateError(UserError):
    """Certificates or keys that cannot work; the message has a line for each thing that is wrong."""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, the leaf first where it is a chain.

    Raises:
        CertificateError: it cannot be read, or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(read(path))
    except KeyFileError as error:
        raise CertificateError(str(error)) from error
    except ValueError as error:
        raise CertificateError(f"{path}: expected certificates in PEM: {error}") from error


def root_certificates(path: Path, now: datetime | None = None) -> bytes:
    """The content of a file of CA certificates, at least one of which can be relied on now.

    Raises:
        CertificateError: says what is wrong.
    """
    if problems := list(problems_of_ca(path, now)):
        raise CertificateError("\n".join(problems))
    return path.read_bytes()


def problems_of_ca(path: Path, now: datetime | None = None) -> Iterator[str]:
    """What is wrong with the CA's certificate, or with all of several."""
    try:
        found = read_certificates(path)
    except CertificateError as error:
        yield str(error)
        return
    problems = [list(_problems_of_root(root, path, now or datetime.now(UTC))) for root in found]
    if all(problems):
        yield from (problem for of_one in problems for problem in of_one)


def problems_of_server(
    certificate: Path,
    key: Path,
    hosts: Sequence[str] = (),
    ca: Path | None = None,
    now: datetime | None = None,
) -> Iterator[str]:
    """What is wrong with a server's certificate.

    Args:
        certificate: PEM file that clients are shown.
        key: Its private key.
        hosts: Names and addresses by which clients call the server.
        ca: PEM file that clients verify it with; None: not looked at.
        now: For tests.
    """
    now = now or datetime.now(UTC)
    try:
        own = read_tls_private(key)
    except KeyFileError as error:
        own = None
        yield str(error)
    try:
        leaf = read_certificates(certificate)[0]
    except CertificateError as error:
        yield str(error)
        return
    yield from _problems_of_dates(leaf, certificate, now)
    if own is not None and own.public_key() != leaf.public_key():
        yield f"{key}: is not the key of {certificate}; the two were made apart"
    names = hosts_of(leaf)
    for host in hosts:
        if not _is_among(host, names):
            yield f"{certificate}: is not for '{host}'; it is for {', '.join(names) or 'no name at all'}"
    if ca is None:
        return
    try:
        roots = read_certificates(ca)
    except CertificateError:
        return  # said by whoever looks at the CA
    if not any(_is_issued_by(leaf, root) for root in roots):
        yield f"{certificate}: was not issued by {ca} ({_name(leaf.issuer)})"


def soon_over(certificate: Path, now: datetime | None = None) -> str | None:
    """A word about a certificate that will end soon; None where there is time.

    Raises:
        CertificateError: the file holds no certificate.
    """
    leaf, now = read_certificates(certificate)[0], now or datetime.now(UTC)
    left = leaf.not_valid_after_utc - now
    if left > SOON:
        return None
    return f"{certificate}: ends in {left.days} days, on {leaf.not_valid_after_utc:%Y-%m-%d}"


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)  # noqa: S101
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)]


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A host that is given as an address; None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at a host."""
    address = address_of(host)
    return host == "localhost" if address is None else address.is_loopback


def _problems_of_root(root: x509.Certificate, path: Path, now: datetime) -> Iterator[str]:
    yield from _problems_of_dates(root, path, now)
    try:
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        yield f"{path}: is no CA's certificate ({_name(root.subject)}); clients need that of the CA"


def _problems_of_dates(certificate: x509.Certificate, path: Path, now: datetime) -> Iterator[str]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        yield f"{path}: expired on {end:%Y-%m-%d %H:%M} UTC"
    if now < begin:
        yield f"{path}: begins on {begin:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} on this machine"


def _is_among(host: str, names: Sequence[str]) -> bool:
    if (address := address_of(host)) is not None:
        return str(address) in names
    wild = "*." + host.partition(".")[2]
    return any(name.lower() in (host.lower(), wild.lower()) for name in names)


def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "without a name"
