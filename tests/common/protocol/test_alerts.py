from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.protocol.alerts import MAX_NOTICE_TEXT, Alert, AlertError, Cause, Notice

CAUSE = Cause("cpu", 0.75, 98.0, 12.5)
ALERT = Alert(1e9, 4.0, 0.5, 7, (CAUSE,))
NOTICE = Notice("incident_started", "0123456789abcdef", "press 2 (old)", 1e9, None, 1, ALERT)


def packed(alert: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """Return the notice as JSON; `alert` replaces single fields of its alert."""
    values = json.loads(NOTICE.pack()) | changes
    return json.dumps({**values, "alert": {**values["alert"], **(alert or {})}}).encode()


def test_a_notice_is_read_as_it_was_packed() -> None:
    assert Notice.unpack(NOTICE.pack()) == NOTICE


def test_a_notice_is_a_json_object_with_these_fields() -> None:
    assert json.loads(NOTICE.pack()) == {
        "kind": "incident_started", "id": "0123456789abcdef", "client": "press 2 (old)", "started": 1e9,
        "ended": None, "events": 1,
        "alert": {
            "time": 1e9, "score": 4.0, "threshold": 0.5, "version": 7,
            "causes": [{"feature": "cpu", "share": 0.75, "value": 98.0, "expected": 12.5}],
        },
        "text": None,
    }  # fmt: skip


def test_a_number_that_is_not_finite_is_sent_as_null() -> None:
    cause = Cause("cpu", 1.0, math.nan, math.inf)
    notice = Notice("incident_ended", "1", "a", 1.0, 2.0, 3, Alert(1.0, 4.0, 0.5, 7, (cause,)))
    alert = Notice.unpack(notice.pack()).alert
    assert alert is not None and alert.causes == (Cause("cpu", 1.0, None, None),)


def test_a_notice_that_follows_from_no_score_has_a_text_and_no_alert() -> None:
    notice = Notice("stream_silent", "1", "a", 1.0, None, 0, None, "no event for 10 minutes")
    assert Notice.unpack(notice.pack()) == notice
    with pytest.raises(AlertError, match="text"):
        Notice.unpack(replace(notice, text="x" * (MAX_NOTICE_TEXT + 1)).pack())


def test_unknown_fields_are_ignored() -> None:
    assert Notice.unpack(packed(site="north", alert={"unit": "g"})) == NOTICE


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "^the body: .*truncated"),
        (b"[]", "^the body: Expected `object`"),
        (b"\xff", "malformed"),
        (b'{"extra": ' + b"[" * 100_000, "recursion"),
        (b'{"kind": "incident_started"}', "required field `id`"),
        (packed(kind="incident_paused"), "^kind: unknown value"),
        (packed(id="../../x"), "id"),
        (packed(client=""), "client"),
        (packed(client="x" * 256), "client"),
        (packed(events=-1), "^events: Expected `int` >= 0"),
        (packed(events="1"), "events"),
        (packed(events=10**13), "events"),
        (packed(started=float("nan")), "malformed"),
        (packed(started=0.5).replace(b"0.5", b"1e999", 1), "started"),
        (packed(alert={"score": float("inf")}), "malformed"),
        (packed(alert={"version": "7"}), "^alert.version: "),
        (packed(alert={"version": -7}), "^alert.version: "),
        (packed(alert={"causes": [{"feature": "cpu"}]}), r"^alert.causes\[0\]: .*share"),
        (packed(alert={"causes": [{"feature": "c", "share": 2, "value": 1, "expected": 1}]}), "share"),
        (packed(alert={"causes": {}}), "alert.causes"),
    ],
)
def test_content_that_is_not_a_notice_is_refused_with_the_name_of_the_field(
    content: bytes, named: str
) -> None:
    with pytest.raises(AlertError, match=named):
        Notice.unpack(content)


def test_an_error_does_not_repeat_the_value_that_was_refused() -> None:
    for content in (packed(kind="<script>"), packed(id="<script>"), packed(events="<script>")):
        with pytest.raises(AlertError) as refused:
            Notice.unpack(content)
        assert "<script>" not in str(refused.value)


@given(st.integers(0, len(packed()) - 1), st.binary(max_size=4))
def test_any_bytes_are_a_notice_or_refused(at: int, noise: bytes) -> None:
    for content in (noise, packed()[:at], packed()[:at] + noise + packed()[at + len(noise) :]):
        with suppress(AlertError):
            assert isinstance(Notice.unpack(content), Notice)
