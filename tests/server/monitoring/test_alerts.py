from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.detection import incidents as edge
from client.detection.scorer import Explanation
from common.settings import LiveSettings
from server.monitoring import alerts
from server.monitoring.alerts import MAX_CAUSES, MAX_FEATURE, AlertError
from server.storage.history import History


def notice(**changes: Any) -> dict[str, Any]:
    """What an edge posts; a change of `alert` replaces single fields of it."""
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


def test_what_an_edge_packs_is_what_the_server_reads() -> None:
    grouped = edge.Incidents("press 2 (old)", LiveSettings(end_after=1))
    row = np.array([3.0, np.nan], np.float32)
    why = Explanation(share=np.array([0.25, 0.75]), expected=np.array([1.0, np.inf]))
    alert = edge.Alert(1e9, 4.0, 0.5, 7, edge.causes(("cpu", "disk"), row, why, 2))
    started = grouped.above(1e9, 4.0, lambda: alert)
    ended = grouped.below(0.0, 0.5)
    assert started is not None and ended is not None
    first, last = alerts.parse(started.pack()), alerts.parse(ended.pack())
    assert (first.kind, last.kind) == ("incident_started", "incident_ended")
    assert first.id == last.id == started.id
    assert [(c.feature, c.value, c.expected) for c in first.alert.causes] == [
        ("disk", None, None), ("cpu", 3.0, 1.0),
    ]  # fmt: skip
    assert (last.client, last.ended, last.events) == ("press 2 (old)", 1e9, 1)


def test_a_newer_edge_may_say_more() -> None:
    assert alerts.parse(packed(site="north", alert={"unit": "g"})).client == "edge-7"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "the body"),
        (b"[]", "the body"),
        (b'{"kind": "incident_started"}', "id: Field required"),
        (packed(kind="incident_paused"), "kind"),
        (packed(id="../../x"), "id"),
        (packed(client=""), "client"),
        (packed(client="x" * 256), "client"),
        (packed(events=-1), "events"),
        (packed(events="1"), "events"),
        (packed(started=float("nan")), "started"),
        (packed(alert={"score": float("inf")}), "alert.score"),
        (packed(alert={"version": "7"}), "alert.version"),
        (packed(alert={"causes": [{"feature": "cpu"}]}), "alert.causes.0.share"),
        (packed(alert={"causes": {}}), "alert.causes"),
    ],
)
def test_what_is_no_notice_is_refused_by_the_name_of_the_field(content: bytes, named: str) -> None:
    with pytest.raises(AlertError, match=named):
        alerts.parse(content)


def test_what_is_refused_is_not_repeated() -> None:
    with pytest.raises(AlertError) as refused:
        alerts.parse(packed(kind="<script>"))
    assert "<script>" not in str(refused.value)


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    cause = {"feature": "f" * 10_000, "share": 0.5, "value": 1.0, "expected": 1.0}
    with closing(History(tmp_path / "history.sqlite")) as history:
        assert alerts.record(history, alerts.parse(packed(alert={"causes": [cause] * 100})))
        (row,) = history.notices(1)
    (found,) = alerts.incidents([row])
    assert len(found["alert"]["causes"]) == MAX_CAUSES
    assert found["alert"]["causes"][0]["feature"] == "f" * MAX_FEATURE


@pytest.mark.parametrize(
    "order", [("incident_started", "incident_ended"), ("incident_ended", "incident_started")]
)
def test_start_and_end_are_one_incident_whichever_comes_first(tmp_path: Path, order: tuple[str, str]) -> None:
    said = {
        "incident_started": packed(),
        "incident_ended": packed(kind="incident_ended", ended=1e9 + 60, events=9, alert={"score": 8.0}),
    }
    with closing(History(tmp_path / "history.sqlite")) as history:
        for kind in order:
            assert alerts.record(history, alerts.parse(said[kind]))
            assert not alerts.record(history, alerts.parse(said[kind]))
        (found,) = alerts.incidents(history.notices(10))
    assert (found["open"], found["ended"], found["events"], found["alert"]["score"]) == (
        False,
        1e9 + 60,
        9,
        8.0,
    )
    assert found["received_at"] <= found["heard_at"]


def test_an_incident_is_open_until_its_end_has_come(tmp_path: Path) -> None:
    with closing(History(tmp_path / "history.sqlite")) as history:
        alerts.record(history, alerts.parse(packed()))
        alerts.record(history, alerts.parse(packed(client="edge-8")))
        found = alerts.incidents(history.notices(10))
    assert [(i["client"], i["open"]) for i in found] == [("edge-8", True), ("edge-7", True)]


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Bearer sesam", "Bearer Sesame", "Basic", "Basic !!!", "Basic c2VzYW1l",
        "Basic c2VzYW1lOng=", "Digest sesame", "sesame", "Bearer s\u00e9same",
    ],
)  # fmt: skip
def test_what_is_not_the_token_does_not_pass(header: str) -> None:
    assert not alerts.admits("sesame", header)


@pytest.mark.parametrize(
    "header", ["Bearer sesame", "bearer  sesame", "Basic ZWRnZTpzZXNhbWU=", "Basic OnNlc2FtZQ=="]
)
def test_the_token_passes_as_a_bearers_and_as_a_password(header: str) -> None:
    assert alerts.admits("sesame", header)
