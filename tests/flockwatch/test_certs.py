"""`flockwatch certs`: the files that it creates are valid, and it names every problem."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.security.certificates import (
    CertificateError,
    ca_problems,
    certificate_hosts,
    expiry_warning,
    read_certificates,
    root_certificates,
    server_certificate_problems,
)
from common.security.hosts import is_loopback
from common.security.keys import KeyFileError, encode_private_key, read_private_key
from flockwatch.certs import Certificates
from flockwatch.cli import main


def create(folder: Path, *hosts: str, clients: tuple[str, ...] = (), days: int = 365) -> Certificates:
    certificates = Certificates(folder)
    list(certificates.make(hosts, clients, days))
    return certificates


def problems(folder: Path, *hosts: str) -> list[str]:
    return list(Certificates(folder).problems(hosts))


def test_created_files_are_valid_and_only_their_owner_reads_secrets(tmp_path: Path) -> None:
    certificates = create(tmp_path / "c", "edge-server", "10.0.0.5", clients=("a",))
    assert problems(tmp_path / "c", "edge-server", "10.0.0.5", "localhost", "127.0.0.1", "::1") == []
    assert certificate_hosts(read_certificates(certificates.server)[0]) == [
        "edge-server", "localhost", "10.0.0.5", "127.0.0.1", "::1",
    ]  # fmt: skip
    for name in ("ca.key", "server.key", "clients/a.key"):
        assert (tmp_path / "c" / name).stat().st_mode & 0o777 == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, tmp_path / "c" / "server.key")


def test_existing_files_are_not_changed(tmp_path: Path) -> None:
    create(tmp_path, "one", clients=("a",))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert list(Certificates(tmp_path).make(["two"], ["a"])) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert problems(tmp_path, "two") == [
        f"{tmp_path}/server.pem: is not for 'two'; it is for one, localhost, 127.0.0.1, ::1"
    ]


def test_a_renewed_certificate_has_old_and_new_hosts_the_same_ca_and_another_key(tmp_path: Path) -> None:
    create(tmp_path, "one")
    ca, key = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server.key").read_bytes()
    list(Certificates(tmp_path).make(["two"], [], renew=True))
    assert problems(tmp_path, "one", "two") == []
    assert (tmp_path / "ca.pem").read_bytes() == ca
    assert (tmp_path / "server.key").read_bytes() != key


def spoiled_expired(folder: Path) -> str:
    list(Certificates(folder).make([], [], days=-1, renew=True))
    return r"server.pem: expired on \d{4}-\d\d-\d\d"


def spoiled_other_ca(folder: Path) -> str:
    create(folder / "other")
    (folder / "ca.pem").write_bytes((folder / "other" / "ca.pem").read_bytes())
    return r"server.pem: was not issued by \S+ca.pem \(CN=flockwatch CA\)"


def spoiled_key(folder: Path) -> str:
    create(folder / "other")
    (folder / "server.key").write_bytes((folder / "other" / "server.key").read_bytes())
    return "server.key: is not the key of"


def spoiled_ca_key(folder: Path) -> str:
    create(folder / "other")
    (folder / "ca.key").write_bytes((folder / "other" / "ca.key").read_bytes())
    return "ca.key: is not the key of"


def spoiled_readable(folder: Path) -> str:
    (folder / "server.key").chmod(0o644)
    return "server.key: every user of this machine can read"


def spoiled_readable_client(folder: Path) -> str:
    (folder / "clients" / "a.key").chmod(0o604)
    return "a.key: every user of this machine can read"


def spoiled_leaf_as_ca(folder: Path) -> str:
    (folder / "ca.pem").write_bytes((folder / "server.pem").read_bytes())
    return "ca.pem: is not a CA certificate"


def spoiled_missing(folder: Path) -> str:
    (folder / "server.pem").unlink()
    return "server.pem: cannot be read: No such file"


def spoiled_noise(folder: Path) -> str:
    (folder / "server.pem").write_bytes(b"noise")
    return "server.pem: expected certificates in PEM"


def spoiled_pair(folder: Path) -> str:
    create(folder / "other", clients=("a",))
    (folder / "clients" / "a.pub").write_bytes((folder / "other" / "clients" / "a.pub").read_bytes())
    return "clients/a.key: is not the private key of"


def spoiled_openssh(folder: Path) -> str:
    key = folder / "server.key"
    key.write_bytes(encode_private_key(read_private_key(key)))
    return "server.key: expected a private key in PEM, not in OpenSSH format"


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled_expired, spoiled_other_ca, spoiled_key, spoiled_ca_key, spoiled_readable,
        spoiled_readable_client, spoiled_leaf_as_ca, spoiled_missing, spoiled_noise, spoiled_pair,
        spoiled_openssh,
    ],
)  # fmt: skip
def test_problems_are_reported(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    create(tmp_path, clients=("a",))
    assert problems(tmp_path) == []
    expected = spoil(tmp_path)
    reported = problems(tmp_path)
    assert any(re.search(expected, problem) for problem in reported), reported
    assert main(["certs", "check", str(tmp_path)]) == 2


def test_a_ca_outside_its_dates_is_reported(tmp_path: Path) -> None:
    ca = create(tmp_path).ca
    now = datetime.now(UTC)
    assert list(ca_problems(ca, now)) == []
    (late,) = ca_problems(ca, now + timedelta(days=4000))
    (early,) = ca_problems(ca, now - timedelta(days=1))
    assert "expired on" in late
    assert "is not valid before" in early
    with pytest.raises(CertificateError, match="expired on"):
        root_certificates(ca, now + timedelta(days=4000))


def test_one_valid_ca_of_two_is_enough(tmp_path: Path) -> None:
    old, new = create(tmp_path / "old"), create(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_bytes(new.ca.read_bytes() + old.ca.read_bytes())
    for folder in ("old", "new"):
        pair = tmp_path / folder / "server.pem", tmp_path / folder / "server.key"
        assert list(server_certificate_problems(*pair, ca=both)) == []
    assert root_certificates(both) == both.read_bytes()


def test_a_certificate_that_expires_soon_is_reported(tmp_path: Path) -> None:
    assert expiry_warning(create(tmp_path / "long").server) is None
    assert "expires in" in str(expiry_warning(create(tmp_path / "short", days=20).server))
    assert [w for w in Certificates(tmp_path / "short").warnings() if "server.pem: expires in 19 days" in w]


def test_a_host_with_a_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CertificateError, match="'server:8000': expected a host name or an IP address, without a port"
    ):
        create(tmp_path, "server:8000")


def test_without_the_key_of_the_ca_nothing_is_issued(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(KeyFileError, match=r"ca\.key: cannot be read"):
        list(Certificates(tmp_path).make([], [], renew=True))
    assert problems(tmp_path) == []  # it is best kept elsewhere


def test_a_wildcard_certificate_matches_names_of_its_domain(tmp_path: Path) -> None:
    create(tmp_path, "*.plant.example")
    assert problems(tmp_path, "edge-server.plant.example") == []
    assert len(problems(tmp_path, "plant.example")) == 1


def test_a_missing_folder_is_reported_and_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "check", str(tmp_path / "none")]) == 2
    assert f"error: {tmp_path}/none: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_command_creates_files_and_prints_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "c"
    assert main(["certs", "make", str(folder), "--host", "edge-server", "--client", "a"]) == 0
    output = capsys.readouterr().out
    for file in ("ca.pem", "server.pem", "clients/a.key"):
        assert f"{folder}/{file}: " in output
    assert "PRIVATE" not in output
    assert main(["certs", "make", str(folder), "--client", "../a"]) == 2
    assert main(["certs", "make", str(folder), "--days", "0"]) == 2


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("x", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str, alone: bool) -> None:
    assert is_loopback(host) == alone
