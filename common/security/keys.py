"""Client keys: elliptic curve keys in OpenSSH's file format, as `ssh-keygen -t ecdsa` makes them."""

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
    """A key file cannot be used; the message names the file and the problem."""


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a client's private key, in OpenSSH format or PEM, without a passphrase.

    Raises:
        KeyFileError: the file cannot be read, other users can read it, or it is not an elliptic curve key.
    """
    content = _read_secret(path)
    try:
        load = load_ssh_private_key if OPENSSH in content else load_pem_private_key
        key = load(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path}: expected a private key in OpenSSH format or PEM, without a passphrase"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: expected an elliptic curve key, found {type(key).__name__}")
    return key


def read_tls_private_key(path: Path) -> PrivateKeyTypes:
    """Read a certificate's private key, of any type, in PEM without a passphrase.

    Raises:
        KeyFileError: the file cannot be read, other users can read it, or it is not such a key.
    """
    content = _read_secret(path)
    try:
        return load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        hint = ", not in OpenSSH format" if OPENSSH in content else ""
        raise KeyFileError(f"{path}: expected a private key in PEM{hint}, without a passphrase") from error


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """Read a public key from a `.pub` file of one line.

    Raises:
        KeyFileError: the file cannot be read or is not a public key; a private key is named as such.
    """
    content = read_small_file(path)
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path}: is a private key, which must stay on its machine; pass the .pub file")
    return parse_public_key(content, str(path))


def parse_public_key(content: bytes, source: str) -> EllipticCurvePublicKey:
    """Return the public key in a line of OpenSSH format.

    Args:
        content: `ecdsa-sha2-nistp384 AAAA... comment`.
        source: Where the line is from, for the error message.

    Raises:
        KeyFileError: the line is not an elliptic curve key.
    """
    return _public(load_ssh_public_key, content, f"{source}: expected a line 'ecdsa-sha2-nistp384 AAAA...'")


def parse_public_pem(content: bytes) -> EllipticCurvePublicKey:
    """Return the public key in PEM bytes, the format of Flower's messages.

    Raises:
        KeyFileError: the bytes are not an elliptic curve key.
    """
    return _public(load_pem_public_key, content, "expected an elliptic curve key in PEM")


def new_private_key() -> EllipticCurvePrivateKey:
    """Generate a key on the curve P-384."""
    return generate_private_key(SECP384R1())


def encode_private_key(key: EllipticCurvePrivateKey, tls: bool = False) -> bytes:
    """Return the content of a private key file: OpenSSH format, or PKCS #8 for a TLS certificate."""
    file_format = PrivateFormat.PKCS8 if tls else PrivateFormat.OpenSSH
    return key.private_bytes(Encoding.PEM, file_format, NoEncryption())


def public_key_line(key: EllipticCurvePublicKey) -> str:
    """Return a public key as a line of OpenSSH format, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def public_key_pem(key: EllipticCurvePublicKey) -> bytes:
    """Return a public key in PEM, the format of Flower's messages."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return a key's SHA-256 fingerprint, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key_line(key).split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def read_small_file(path: Path) -> bytes:
    """Read a file of keys or certificates.

    Raises:
        KeyFileError: the file cannot be read or is larger than `MAX_FILE_BYTES`.
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
    content = read_small_file(path)
    if path.stat().st_mode & OTHERS_MAY_READ:
        raise KeyFileError(f"{path}: every user of this machine can read this private key; chmod 600 it")
    return content
