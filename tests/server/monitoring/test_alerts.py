from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.protocol.alerts import Notice
from server.monitoring import alerts
from server.monitoring.alerts import MAX_CAUSES, MAX_FEATURE_LENGTH
from server.storage.history import History


def notice(**changes: Any) -> dict[str, Any]:
    """A notice as an edge posts it; a change of `alert` replaces single fields of it."""
    alert = {
        "time": 1e9, "score": 4.0, "threshold": 0.5, "version": 7,
        "causes": [{"feature": "cpu", "share": 0.75, "value": 98.0, "expected": 12.5}],
    }  # fmt: skip
    values = {
        "kind": "incident_started", "id": "0123456789abcdef", "client": "edge-7", "started": 1e9,
        "ended": None, "events": 1,
    }  # fmt: skip
    return {**values, **changes, "alert": {**alert, **changes.get("alert", {})}}


def packed(**changes: Any) -> bytes:
    return json.dumps(notice(**changes)).encode()


def test_stored_notices_are_bounded(tmp_path: Path) -> None:
    cause = {"feature": "f" * 1000, "share": 0.5, "value": 1.0, "expected": 1.0}
    with closing(History(tmp_path / "history.sqlite")) as history:
        assert alerts.record(history, Notice.unpack(packed(alert={"causes": [cause] * 100})))
        (row,) = history.notices(1)
    (incident,) = alerts.incidents([row])
    assert len(incident["alert"]["causes"]) == MAX_CAUSES
    assert incident["alert"]["causes"][0]["feature"] == "f" * MAX_FEATURE_LENGTH


@pytest.mark.parametrize(
    "order", [("incident_started", "incident_ended"), ("incident_ended", "incident_started")]
)
def test_start_and_end_are_merged_in_either_order(tmp_path: Path, order: tuple[str, str]) -> None:
    notices = {
        "incident_started": packed(),
        "incident_ended": packed(kind="incident_ended", ended=1e9 + 60, events=9, alert={"score": 8.0}),
    }
    with closing(History(tmp_path / "history.sqlite")) as history:
        for kind in order:
            assert alerts.record(history, Notice.unpack(notices[kind]))
            assert not alerts.record(history, Notice.unpack(notices[kind]))
        (incident,) = alerts.incidents(history.notices(10))
    assert (incident["open"], incident["ended"], incident["events"], incident["alert"]["score"]) == (
        False,
        1e9 + 60,
        9,
        8.0,
    )
    assert incident["received_at"] <= incident["updated_at"]


def test_an_incident_is_open_until_its_end_is_received(tmp_path: Path) -> None:
    with closing(History(tmp_path / "history.sqlite")) as history:
        alerts.record(history, Notice.unpack(packed()))
        alerts.record(history, Notice.unpack(packed(client="edge-8")))
        incidents = alerts.incidents(history.notices(10))
    assert [(i["client"], i["open"]) for i in incidents] == [("edge-8", True), ("edge-7", True)]


def test_an_incident_that_was_adapted_to_has_ended(tmp_path: Path) -> None:
    with closing(History(tmp_path / "history.sqlite")) as history:
        for kind in ("regime_changed", "incident_started"):
            alerts.record(history, Notice.unpack(packed(kind=kind)))
        (changed,) = alerts.incidents(history.notices(10))
        alerts.record(history, Notice.unpack(packed(kind="adapted", ended=1e9 + 60)))
        (adapted,) = alerts.incidents(history.notices(10))
    assert [(i["kind"], i["open"]) for i in (changed, adapted)] == [
        ("regime_changed", True),
        ("adapted", False),
    ]


def test_a_notice_without_an_alert_is_listed_and_not_open(tmp_path: Path) -> None:
    silent = Notice("sensor_silent", "1", "edge-7", 1e9, None, 30, None, "temp has no values since 00:10")
    with closing(History(tmp_path / "history.sqlite")) as history:
        assert alerts.record(history, Notice.unpack(silent.pack()))
        assert [row["kind"] for row in history.notices(1)] == ["sensor_silent"]
        (listed,) = alerts.incidents(history.notices(1))
    assert (listed["kind"], listed["open"], listed["text"]) == ("sensor_silent", False, silent.text)


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Bearer sesam", "Bearer Sesame", "Basic", "Basic !!!", "Basic c2VzYW1l",
        "Basic c2VzYW1lOng=", "Digest sesame", "sesame", "Bearer s\u00e9same",
    ],
)  # fmt: skip
def test_other_credentials_are_not_the_token(header: str) -> None:
    assert alerts.presented_token(header) != b"sesame"


@pytest.mark.parametrize(
    "header", ["Bearer sesame", "bearer  sesame", "Basic ZWRnZTpzZXNhbWU=", "Basic OnNlc2FtZQ=="]
)
def test_the_token_is_accepted_as_bearer_token_and_as_password(header: str) -> None:
    assert alerts.presented_token(header) == b"sesame"
