from __future__ import annotations

import json
import threading
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from common.security.keys import fingerprint, new_private_key, public_key_line, public_key_pem
from common.security.tokens import edge_token
from flockwatch.cli import main
from server.access.roster import Roster, RosterError

KEYS = [new_private_key().public_key() for _ in range(3)]
A, B, C = KEYS


def header(key: EllipticCurvePublicKey) -> bytes:
    return b64encode(public_key_pem(key))


def test_registration_and_revocation_take_effect_without_a_restart(tmp_path: Path) -> None:
    reader, operator = Roster(tmp_path), Roster(tmp_path)
    assert reader.find(header(A)) is None
    operator.enroll("a", A)
    operator.enroll("b", B)
    entry = reader.find(header(A))
    assert entry is not None
    assert (entry.client, entry.revoked) == ("a", None)
    operator.revoke("a")
    entry = reader.find(header(A))
    assert entry is not None
    assert entry.revoked is not None
    other = reader.find(header(B))
    assert other is not None
    assert other.revoked is None
    assert reader.clients() == {"b"}
    assert reader.owner(public_key_pem(A)) == "a"
    assert reader.owner(public_key_pem(C)) is None


def test_a_client_may_have_two_keys(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    roster.enroll("a", A)
    roster.enroll("a", B)
    (revoked,) = roster.revoke("a", fingerprint(A))
    assert revoked.fingerprint == fingerprint(A)
    assert [entry.revoked is None for entry in roster.entries()] == [False, True]


def test_enrolling_twice_changes_nothing(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    assert roster.enroll("a", A) == roster.enroll("a", A)
    assert len(roster.entries()) == 1


def test_revoking_twice_keeps_the_time_of_the_first(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    roster.enroll("a", A)
    assert roster.revoke("a") == roster.revoke("a")


def test_a_key_belongs_to_one_client_and_a_revoked_key_cannot_return(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    roster.enroll("a", A)
    with pytest.raises(RosterError, match="is already the key of 'a'"):
        roster.enroll("b", A)
    roster.revoke("a")
    with pytest.raises(RosterError, match=r"of 'a' was revoked on .*: a revoked key cannot"):
        roster.enroll("a", A)


def test_revoking_an_unknown_key_lists_the_registered_ones(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    with pytest.raises(RosterError, match="no key of 'a' is registered; registered clients: none"):
        roster.revoke("a")
    roster.enroll("a", A)
    with pytest.raises(RosterError, match="no key of 'z' is registered; registered clients: a"):
        roster.revoke("z")
    with pytest.raises(RosterError, match=r"'a' has SHA256:\S+, not SHA256:other"):
        roster.revoke("a", "SHA256:other")


@pytest.mark.parametrize("content", [b"{", b'[{"client": "a"}]', b"[3]"])
def test_a_damaged_roster_refuses_all_clients(tmp_path: Path, content: bytes) -> None:
    roster = Roster(tmp_path)
    roster.enroll("a", A)
    assert roster.find(header(A)) is not None
    (tmp_path / "roster.json").write_bytes(content)
    with pytest.raises(RosterError, match=r"roster\.json: is damaged"):
        roster.find(header(A))
    with pytest.raises(RosterError, match="is damaged"):
        roster.enroll("b", B)
    assert (tmp_path / "roster.json").read_bytes() == content


def test_an_invalid_key_in_the_roster_is_reported(tmp_path: Path) -> None:
    Roster(tmp_path).enroll("a", A)
    file = tmp_path / "roster.json"
    file.write_text(file.read_text().replace(public_key_line(A), "ecdsa-sha2-nistp384 AAAA"))
    with pytest.raises(RosterError, match=r"roster\.json: expected a line"):
        Roster(tmp_path).find(header(A))


def test_concurrent_registrations_are_all_kept(tmp_path: Path) -> None:
    keys = [new_private_key().public_key() for _ in range(12)]
    threads = [
        threading.Thread(target=lambda i=i: Roster(tmp_path).enroll(f"c{i}", keys[i])) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.client for entry in Roster(tmp_path).entries()} == {f"c{i}" for i in range(12)}


def test_the_commands_enroll_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = tmp_path / "a.pub"
    public.write_text(f"{public_key_line(A)} a\n")
    state = ["--state", str(tmp_path / "server")]
    assert main(["enroll", "a", str(public), *state]) == 0
    assert main(["enroll", *state]) == 0
    assert f"a  {fingerprint(A)}  enrolled 20" in capsys.readouterr().out
    assert main(["revoke", "a", *state]) == 0
    assert main(["enroll", *state]) == 0
    assert f"a  {fingerprint(A)}  revoked 20" in capsys.readouterr().out
    assert main(["revoke", "z", *state]) == 2
    assert main(["enroll", "a b", str(public), *state]) == 2
    assert main(["enroll", "a", *state]) == 2
    assert main(["enroll", "a", str(tmp_path / "none.pub"), *state]) == 2
    (entry,) = json.loads((tmp_path / "server" / "roster.json").read_bytes())
    assert entry["key"] == public_key_line(A)


def test_a_client_is_revoked_when_all_its_keys_are(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    assert not roster.is_revoked("a"), "it has never had one"
    first, second = new_private_key().public_key(), new_private_key().public_key()
    roster.enroll("a", first)
    roster.enroll("a", second)
    assert not roster.is_revoked("a")
    roster.revoke("a", fingerprint(first))
    assert not roster.is_revoked("a")
    roster.revoke("a")
    assert roster.is_revoked("a")
    roster.enroll("a", new_private_key().public_key())
    assert not roster.is_revoked("a")


def test_enroll_prints_the_clients_token_for_notices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, secret = ["--state", str(tmp_path)], ["--set", "server.alerts_token=a-secret-of-the-server"]
    line = f"token of edge-7 for notices: {edge_token('a-secret-of-the-server', 'edge-7')}\n"
    assert main(["enroll", "edge-7", *state, *secret]) == 0
    assert capsys.readouterr().out == line
    public = tmp_path / "key.pub"
    public.write_text(public_key_line(new_private_key().public_key()))
    assert main(["enroll", "edge-7", str(public), *state, *secret]) == 0
    assert capsys.readouterr().out.endswith(line)
    assert main(["enroll", "edge-7", *state]) == 2
    assert "server.alerts_token" in capsys.readouterr().err
