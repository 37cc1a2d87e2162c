"""A client's key: on an elliptic curve, in files of OpenSSH's form, as `ssh-keygen -t ecdsa` makes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from common.errors import UserError

OPENSSH = b"BEGIN OPENSSH PRIVATE KEY"
OTHERS_MAY_READ = 0o004
MAX_FILE_BYTES = 1 << 20


class KeyFileError(UserError):
    """A key's file cannot be used; says which, and what was wrong with it."""


def read_private(path: Path) -> EllipticCurvePrivateKey:
    """A client's private key, in OpenSSH's form or PEM, without a passphrase.

    Raises:
        KeyFileError: it cannot be read, everybody on this machine can read it, or it is no such key.
    """
    content = _read_secret(path)
    try:
        load = load_ssh_private_key if OPENSSH in content else load_pem_private_key
        key = load(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path}: expected a private key in OpenSSH's form or PEM, without a passphrase"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: expected an elliptic curve key, found {type(key).__name__}")
    return key


def read_tls_private(path: Path) -> PrivateKeyTypes:
    """The private key of a certificate, of any kind, in PEM without a passphrase.

    Raises:
        KeyFileError: it cannot be read, everybody on this machine can read it, or it is no such key.
    """
    content = _read_secret(path)
    try:
        return load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        form = ", not in OpenSSH's form" if OPENSSH in content else ""
        raise KeyFileError(f"{path}: expected a private key in PEM{form}, without a passphrase") from error


def read_public(path: Path) -> EllipticCurvePublicKey:
    """A public key: one line, as in a `.pub` file.

    Raises:
        KeyFileError: it cannot be read, or is none; a private key is called by its name.
    """
    content = read(path)
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path}: this is a private key, which stays on its machine; pass the .pub file")
    return parse_public(content, str(path))


def parse_public(content: bytes, source: str) -> EllipticCurvePublicKey:
    """A public key from its line.

    Args:
        content: `ecdsa-sha2-nistp384 AAAA... comment`.
        source: Where it is from, for the error.

    Raises:
        KeyFileError: it is none.
    """
    return _public(load_ssh_public_key, content, f"{source}: expected a line 'ecdsa-sha2-nistp384 AAAA...'")


def parse_pem(content: bytes) -> EllipticCurvePublicKey:
    """A public key as Flower's messages carry it.

    Raises:
        KeyFileError: it is none.
    """
    return _public(load_pem_public_key, content, "expected an elliptic curve key in PEM")


def new_private() -> EllipticCurvePrivateKey:
    """A new key, on the curve P-384."""
    return generate_private_key(SECP384R1())


def private_text(key: EllipticCurvePrivateKey, tls: bool = False) -> bytes:
    """A private key as its file holds it: of a client, or, for TLS, of a certificate."""
    form = PrivateFormat.PKCS8 if tls else PrivateFormat.OpenSSH
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def line(key: EllipticCurvePublicKey) -> str:
    """A public key as one line, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def pem(key: EllipticCurvePublicKey) -> bytes:
    """A public key as Flower's messages carry it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """What `ssh-keygen -l` prints of a key: short, and safe in a log."""
    digest = hashlib.sha256(base64.b64decode(line(key).split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def read(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        KeyFileError: it cannot be read, or is far too large for a key or a certificate.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: is larger than any key or certificate")
    return content


def _public(load: Callable[[bytes], object], content: bytes, expected: str) -> EllipticCurvePublicKey:
    try:
        key = load(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{expected}: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise KeyFileError(f"{expected}, found {type(key).__name__}")
    return key


def _read_secret(path: Path) -> bytes:
    content = read(path)
    if path.stat().st_mode & OTHERS_MAY_READ:
        raise KeyFileError(f"{path}: every user of this machine can read this private key; chmod 600 it")
    return content
