from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.security.keys import new_private_key
from server.access import audit
from server.access.audit import FILE, MAX_REFUSALS, AuditLog
from server.access.roster import Roster
from tests.names import NAMES


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_enrolment_and_revocation_are_recorded(tmp_path: Path) -> None:
    roster, key = Roster(tmp_path), new_private_key().public_key()
    entry = roster.enroll("edge-7", key)
    roster.enroll("edge-7", key)  # is registered already
    roster.revoke("edge-7")
    roster.revoke("edge-7")
    result = [(line["event"], line["client"], line["detail"]) for line in lines(tmp_path)]
    assert result == [("enrolled", "edge-7", entry.fingerprint), ("revoked", "edge-7", entry.fingerprint)]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_each_event_is_one_line_of_bounded_length(tmp_path: Path, name: str) -> None:
    AuditLog(tmp_path).record("quarantined", name, name * 20)
    (line,) = lines(tmp_path)
    assert line["client"] == name or line["client"].endswith("...")
    assert len((tmp_path / FILE).read_bytes()) < 8000


def test_refusals_without_end_are_counted_and_push_nothing_out(tmp_path: Path) -> None:
    now = [0.0]
    log = AuditLog(tmp_path, lambda: now[0])
    for number in range(MAX_REFUSALS + 40):
        log.record("refused", "unknown", f"key {number}", "10.0.0.9")
    log.record("quarantined", "a", "three answers")
    assert len(lines(tmp_path)) == MAX_REFUSALS + 1
    now[0] = 61.0
    log.record("refused", "unknown", "key", "10.0.0.9")
    assert lines(tmp_path)[-1]["left_out_before"] == "40"


def test_a_full_file_is_set_aside_and_the_oldest_part_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_BYTES", 200)
    log = AuditLog(tmp_path)
    for number in range(60):
        log.record("enrolled", f"edge-{number}", "SHA256:x")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [FILE, *(f"{FILE}.{number}" for number in range(1, audit.PARTS + 1))]
    assert all(path.stat().st_size < 400 for path in tmp_path.iterdir())
    assert lines(tmp_path)[-1]["client"] == "edge-59"


def test_a_folder_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    AuditLog(tmp_path).record("refused", "a", "b")
    assert "audit line lost" in caplog.text
