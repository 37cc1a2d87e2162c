from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from common.security.keys import (
    KeyFileError,
    encode_private_key,
    fingerprint,
    new_private_key,
    parse_public_pem,
    public_key_line,
    public_key_pem,
    read_private_key,
    read_public_key,
    read_tls_private_key,
)

KEY = new_private_key()


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("tls", [False, True])
def test_a_key_is_read_as_it_was_written(tmp_path: Path, tls: bool) -> None:
    file = written(tmp_path / "k", encode_private_key(KEY, tls))
    assert read_private_key(file).private_numbers() == KEY.private_numbers()


def test_a_public_key_is_read_from_its_line_and_from_pem(tmp_path: Path) -> None:
    public = KEY.public_key()
    file = written(tmp_path / "k.pub", f"{public_key_line(public)} edge-7\n".encode())
    assert read_public_key(file) == public
    assert parse_public_pem(public_key_pem(public)) == public


def test_the_fingerprint_equals_that_of_ssh_keygen(tmp_path: Path) -> None:
    file = written(tmp_path / "k.pub", f"{public_key_line(KEY.public_key())} edge-7\n".encode())
    try:
        output = subprocess.run(
            ["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert fingerprint(KEY.public_key()) in output


OTHER_KINDS = {
    "rsa": rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ),
    "locked": KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    "noise": b"what is this",
    "cut": encode_private_key(KEY)[:200],
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_private_keys_are_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path / "k", OTHER_KINDS[kind])
    with pytest.raises(KeyFileError, match=f"{file}: expected an? "):
        read_private_key(file)


def test_a_key_that_other_users_can_read_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "k", encode_private_key(KEY), 0o644)
    with pytest.raises(KeyFileError, match="every user of this machine can read this private key"):
        read_private_key(file)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_tls_private_key(file)


def test_a_certificates_key_may_be_of_any_type_but_not_in_openssh_format(tmp_path: Path) -> None:
    assert read_tls_private_key(written(tmp_path / "rsa", OTHER_KINDS["rsa"]))
    with pytest.raises(KeyFileError, match="not in OpenSSH format"):
        read_tls_private_key(written(tmp_path / "ssh", encode_private_key(KEY)))


def test_a_missing_and_a_huge_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        read_private_key(tmp_path / "k")
    with pytest.raises(KeyFileError, match="larger than any key"):
        read_private_key(written(tmp_path / "big", b"x" * (2 << 20)))


def test_a_private_key_is_refused_as_public_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is a private key") as caught:
        read_public_key(written(tmp_path / "k", encode_private_key(KEY)))
    assert encode_private_key(KEY).splitlines()[1].decode() not in str(caught.value)


def test_other_public_keys_are_refused(tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    text = other.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    with pytest.raises(KeyFileError, match=r"k\.pub: expected a line 'ecdsa-.*', found Ed25519PublicKey"):
        read_public_key(written(tmp_path / "k.pub", text))
    with pytest.raises(KeyFileError, match="expected a line"):
        read_public_key(written(tmp_path / "n.pub", b"nonsense"))
    with pytest.raises(KeyFileError, match="elliptic curve key in PEM, found Ed25519PublicKey"):
        parse_public_pem(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match="in PEM"):
        parse_public_pem(b"nonsense")
