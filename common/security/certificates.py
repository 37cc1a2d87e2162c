"""Checks of TLS certificates, which name a problem before a TLS handshake fails because of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID

from common.errors import UserError
from common.security.hosts import parse_address
from common.security.keys import KeyFileError, read_small_file, read_tls_private_key

WARN_BEFORE_EXPIRY = timedelta(days=30)


class CertificateError(UserError):
    """Certificates or keys cannot be used; the message has one line per problem."""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates of a PEM file; in a chain, the leaf comes first.

    Raises:
        CertificateError: the file cannot be read or has no certificate.
    """
    try:
        return x509.load_pem_x509_certificates(read_small_file(path))
    except KeyFileError as error:
        raise CertificateError(str(error)) from error
    except ValueError as error:
        raise CertificateError(f"{path}: expected certificates in PEM: {error}") from error


def root_certificates(path: Path, now: datetime | None = None) -> bytes:
    """Read a PEM file of CA certificates, of which at least one must be valid now.

    Raises:
        CertificateError: the file cannot be read, or none of its certificates is valid.
    """
    if problems := list(ca_problems(path, now)):
        raise CertificateError("\n".join(problems))
    return path.read_bytes()


def ca_problems(path: Path, now: datetime | None = None) -> Iterator[str]:
    """Yield the problems of a PEM file of CA certificates; none if at least one certificate is valid."""
    try:
        roots = read_certificates(path)
    except CertificateError as error:
        yield str(error)
        return
    problems = [list(_root_problems(root, path, now or datetime.now(UTC))) for root in roots]
    if all(problems):
        yield from (problem for root_problems in problems for problem in root_problems)


def server_certificate_problems(
    certificate: Path,
    key: Path,
    hosts: Sequence[str] = (),
    ca: Path | None = None,
    now: datetime | None = None,
) -> Iterator[str]:
    """Yield the problems of a server's certificate.

    Args:
        certificate: PEM file with the server's certificate.
        key: PEM file with its private key.
        hosts: Names and addresses that clients connect to.
        ca: PEM file with the CA certificates that clients verify it with; None skips this check.
        now: The time to check at; None for the current time.
    """
    now = now or datetime.now(UTC)
    try:
        private_key = read_tls_private_key(key)
    except KeyFileError as error:
        private_key = None
        yield str(error)
    try:
        leaf = read_certificates(certificate)[0]
    except CertificateError as error:
        yield str(error)
        return
    yield from _date_problems(leaf, certificate, now)
    if private_key is not None and private_key.public_key() != leaf.public_key():
        yield f"{key}: is not the key of {certificate}"
    names = certificate_hosts(leaf)
    for host in hosts:
        if not _is_among(host, names):
            yield f"{certificate}: is not for '{host}'; it is for {', '.join(names) or 'no host'}"
    if ca is None:
        return
    try:
        roots = read_certificates(ca)
    except CertificateError:
        return  # reported by ca_problems
    if not any(_is_issued_by(leaf, root) for root in roots):
        yield f"{certificate}: was not issued by {ca} ({_name(leaf.issuer)})"


def expiry_warning(certificate: Path, now: datetime | None = None) -> str | None:
    """Return a warning if a certificate expires within `WARN_BEFORE_EXPIRY`, else None.

    Raises:
        CertificateError: the file cannot be read or has no certificate.
    """
    leaf, now = read_certificates(certificate)[0], now or datetime.now(UTC)
    left = leaf.not_valid_after_utc - now
    if left > WARN_BEFORE_EXPIRY:
        return None
    return f"{certificate}: expires in {left.days} days, on {leaf.not_valid_after_utc:%Y-%m-%d}"


def certificate_hosts(certificate: x509.Certificate) -> list[str]:
    """Return the host names and addresses that a certificate is valid for."""
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)  # noqa: S101  the extension of that class
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)]


def _root_problems(root: x509.Certificate, path: Path, now: datetime) -> Iterator[str]:
    yield from _date_problems(root, path, now)
    try:
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        yield f"{path}: is not a CA certificate ({_name(root.subject)}); clients need the one of the CA"


def _date_problems(certificate: x509.Certificate, path: Path, now: datetime) -> Iterator[str]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        yield f"{path}: expired on {end:%Y-%m-%d %H:%M} UTC"
    if now < start:
        clock = f"this machine's clock says {now:%Y-%m-%d %H:%M}"
        yield f"{path}: is not valid before {start:%Y-%m-%d %H:%M} UTC; {clock}"


def _is_among(host: str, names: Sequence[str]) -> bool:
    if (address := parse_address(host)) is not None:
        return str(address) in names
    wildcard = "*." + host.partition(".")[2]
    return any(name.lower() in (host.lower(), wildcard.lower()) for name in names)


def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "no name"
