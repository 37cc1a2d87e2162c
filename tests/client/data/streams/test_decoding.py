from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.streams.decoding import Decoder
from client.data.streams.refusals import MAX_EVENT_BYTES, REASONS, InvalidEventError, NoEventError
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

NAN = math.nan
SCHEMA = Schema(("cpu", "memory", "disk é"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def decode(line: bytes, decoder: Decoder | None = None) -> tuple[list[float], float | None]:
    row = np.full((2, 3), 7, np.float32)
    time = (decoder or Decoder(SCHEMA, DataSettings())).decode(line, memoryview(row.data).cast("B"), 12)
    assert (row[0] == 7).all()
    return row[1].tolist(), time


def reason(line: bytes, decoder: Decoder | None = None) -> str:
    with pytest.raises(InvalidEventError) as caught:
        decode(line, decoder)
    assert str(caught.value)
    return caught.value.reason


@given(st.tuples(FLOATS, FLOATS, FLOATS), st.permutations(SCHEMA.features), st.booleans())
def test_an_object_is_read_by_name(values: Any, order: list[str], ascii_only: bool) -> None:
    named = dict(zip(SCHEMA.features, values, strict=True))
    line = json.dumps({name: named[name] for name in order}, ensure_ascii=ascii_only).encode()
    assert decode(line) == (list(values), None)


@given(st.tuples(FLOATS, FLOATS, FLOATS))
def test_arrays_and_csv_are_read_by_order(values: Any) -> None:
    expected = (list(values), None)
    assert decode(json.dumps(values).encode()) == expected
    assert decode(",".join(map(repr, values)).encode()) == expected
    assert decode(", ".join(f'"{value!r}"' for value in values).encode()) == expected


def test_a_csv_header_gives_order_and_time_from_then_on() -> None:
    decoder = Decoder(SCHEMA, DataSettings(ignore=("rack",)))
    assert decode(b"1,2,3", decoder)[0] == [1, 2, 3]
    with pytest.raises(NoEventError):
        decode("ts, disk é ,rack,cpu,label,memory".encode(), decoder)
    assert decode(b"60,3,x,1,,2", decoder) == ([1, 2, 3], 60.0)
    assert reason(b"1,2,3", decoder) == "missing_feature"
    with pytest.raises(NoEventError):
        decode("cpu,memory,disk é".encode(), decoder)
    assert decode(b"1,2,3", decoder) == ([1, 2, 3], None)
    assert decoder.ignored == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"cpu": 1, "memory": 2}', [1, 2, NAN]),
        (b'{"cpu": null, "memory": 2, "disk \\u00e9": 3}', [NAN, 2, 3]),
        (b'{"cpu": "unavailable", "memory": 2, "disk \\u00e9": "N/A"}', [NAN, 2, NAN]),
        (b'{"cpu": "high", "memory": 2, "disk \\u00e9": [1]}', [NAN, 2, NAN]),
        (b'{"cpu": {}, "memory": 2, "disk \\u00e9": 3}', [NAN, 2, 3]),
        (b'{"cpu": NaN, "memory": 2, "disk \\u00e9": -Infinity}', [NAN, 2, NAN]),
        (b'{"cpu": 1e39, "memory": 2, "disk \\u00e9": 1e999}', [NAN, 2, NAN]),
        (b'{"cpu": 1' + b"0" * 400 + b', "memory": 2, "disk \\u00e9": 3}', [NAN, 2, 3]),
        (b'{"cpu": true, "memory": false, "disk \\u00e9": 3}', [1, 0, 3]),
        (b'{"cpu": "on", "memory": "False", "disk \\u00e9": " 1.5 "}', [1, 0, 1.5]),
        (b'{"cpu": "T", "memory": "f", "disk \\u00e9": 1.5}', [1, 0, 1.5]),
        (b"[1, null, 3]", [1, NAN, 3]),
        (b"[1, 2, NaN]", [1, 2, NAN]),
        (b"[1, true, 1e39]", [1, 1, NAN]),
        (b"1,,3", [1, NAN, 3]),
        (b"1,nan,inf", [1, NAN, NAN]),
        (b"1,NA,-", [1, NAN, NAN]),
        (b"on,off,1e39", [1, 0, NAN]),
        (b"\xef\xbb\xbf1,2,3", [1, 2, 3]),
        (b'\xef\xbb\xbf{"cpu": 1, "memory": 2, "disk \\u00e9": 3}', [1, 2, 3]),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_a_missing_value_is_nan(line: bytes, expected: list[float]) -> None:
    np.testing.assert_array_equal(decode(line)[0], expected)


def test_fields_that_are_not_features_are_ignored_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    event = {
        "timestamp": 60,
        "host": "a",
        "cpu": 1,
        "tags": {"a": [1]},
        "memory": None,
        "disk é": 3,
        "fan": 4,
    }
    with caplog.at_level("INFO"):
        for _ in range(3):
            values, time = decode(json.dumps(event).encode(), decoder)
            np.testing.assert_array_equal(values, [1, NAN, 3])
            assert time == 60
    assert decoder.ignored == {"host": "text, such as 'a'", "tags": "an object", "fan": "not a feature"}
    assert decoder.time == "timestamp"
    assert len([r for r in caplog.records if "fields ignored" in r.message]) == 1


def test_a_stream_with_ever_new_fields_is_read_on() -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    for i in range(200):
        event = {"cpu": i, "memory": 2, "disk é": 3, f"extra {i}": [i]}
        assert decode(json.dumps(event).encode(), decoder)[0] == [i, 2, 3]
    assert len(decoder.ignored) < 100


def test_features_in_inner_objects_have_dotted_names() -> None:
    decoder = Decoder(Schema(("fields.idle", "fields.user", "load")), DataSettings())
    event = {
        "fields": {"idle": 90, "user": 5},
        "load": 1,
        "name": "cpu",
        "tags": {"host": "a"},
        "timestamp": 60,
    }
    for _ in range(2):
        assert decode(json.dumps(event).encode(), decoder) == ([90, 5, 1], 60.0)
    assert set(decoder.ignored) == {"name", "tags.host"}


@pytest.mark.parametrize("name", ['inlet 3/4" temp', r"\\PRESS\% Time", "a\tb", "é\u0001"])
def test_any_name_of_a_feature_can_be_read(name: str) -> None:
    decoder = Decoder(Schema((name, "b", "c")), DataSettings())
    for extra in ({}, {"host": "a"}):
        line = json.dumps({name: 1.5, "b": 2, "c": None, "ts": 60, **extra}).encode()
        values, time = decode(line, decoder)
        np.testing.assert_array_equal(values, [1.5, 2, NAN])
        assert time == 60


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("\ufeffdisk é,memory,cpu", "3,2,1", [1, 2, 3]),
        ("DISK É,Memory,CPU", "3,2,1", [1, 2, 3]),
        (",ts,cpu,memory,disk é", "0,60,1,2,3", [1, 2, 3]),
        ("cpu,memory,disk é,", "1,2,3,", [1, 2, 3]),
        ("cpu,memory,disk é,", "1,2,3", [1, 2, 3]),
        ("cpu,memory,disk é", "1,2,,,", [1, 2, NAN]),
        ("host,cpu,memory,disk é", "web,1,ERR,3", [1, NAN, 3]),
        ("Timestamp,cpu,memory,disk é", "2024-01-01T00:00:00Z,1,2,3", [1, 2, 3]),
    ],
)
def test_a_header_names_the_columns(header: str, row: str, expected: list[float]) -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    with pytest.raises(NoEventError):
        decode(header.encode(), decoder)
    np.testing.assert_array_equal(decode(row.encode(), decoder)[0], expected)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("a,b,c", "names no column 'cpu', 'memory', 'disk é'"),
        ("cpu,memory,fan", "names no column 'disk é'"),
        ("cpu,memory,disk é,cpu", "twice: 'cpu'"),
        ("Cpu,CPU,memory,disk é", "names no column 'cpu'"),
        ("ts;cpu;memory;disk é", "columns are separated by ';'"),
        ("Cpu\tmemory", "columns are separated by tabs"),
    ],
)
def test_rows_after_a_header_that_does_not_fit_are_refused(header: str, part: str) -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    for line in (header, "1,2,3", "1,2,3,4"):
        with pytest.raises(InvalidEventError, match=part) as caught:
            decode(line.encode(), decoder)
        assert caught.value.reason == "unknown_columns"
    with pytest.raises(NoEventError):
        decode("cpu,memory,disk é".encode(), decoder)
    assert decode(b"1,2,3", decoder)[0] == [1, 2, 3]


def test_noise_between_rows_by_order_is_not_a_header() -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    assert decode(b"1,2,3", decoder)[0] == [1, 2, 3]
    for noise in (b"hello, world", b"ERR,ERR,ERR", b"starting", b"unavailable,unavailable,unavailable"):
        reason(noise, decoder)
    with pytest.raises(NoEventError):
        decode(b"# a comment", decoder)
    with pytest.raises(NoEventError):
        decode(b"sep=,", decoder)
    assert decode(b"4,5,6", decoder)[0] == [4, 5, 6]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"hello", "not_json"),
        (b"", "not_json"),
        (b"   ", "not_json"),
        (b'"text"', "not_json"),
        (b"{", "not_json"),
        (b'{"cpu": 1, "memory": 2, "disk \\u00e9": 3} x', "not_json"),
        (b"[" * 20_000, "not_json"),
        (b'{"cpu": ' * 20_000, "not_json"),
        (b"\x00\x01\x02", "not_json"),
        (b"climate,room=hall temperature=20.65,humidity=40.1 1764547200000000000", "not_json"),
        (b'{"cpu": 1, "memory": "\xff"}', "not_utf8"),
        (b"\xff\xfe", "not_utf8"),
        (b'{"cpu": [1], "memory": {}}', "wrong_type"),
        (b'{"cpu": "high"}', "wrong_type"),
        (b"1,2,x", "wrong_type"),
        (b"1,2,1_0", "wrong_type"),
        (b'{"cpu": "49.8%", "memory": 2, "disk \\u00e9": 3}', "number_as_text"),
        (b'{"cpu": "60.1 C", "memory": 2, "disk \\u00e9": 3}', "number_as_text"),
        (b'[1, 2, "1,512.3"]', "number_as_text"),
        (b'1,2,"40,125"', "number_as_text"),
        (b"{}", "missing_feature"),
        (b'{"cpu": null, "memory": "unavailable"}', "missing_feature"),
        (b'{"uptime": 3}', "missing_feature"),
        (b"[1, 2]", "missing_feature"),
        (b"[null, null, null]", "missing_feature"),
        (b"1,2", "missing_feature"),
        (b",,", "missing_feature"),
        (b"[1, 2, 3, 4]", "extra_feature"),
        (b"1,2,3,4", "extra_feature"),
        (b"cpu,memory,fan", "unknown_columns"),
        (b'{"cpu": NaN}', "not_finite"),
        (b"[1e39, -1e39, NaN]", "not_finite"),
        (b"x" * (MAX_EVENT_BYTES + 1), "too_long"),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_a_line_that_is_not_an_event_is_refused_with_a_reason(line: bytes, expected: str) -> None:
    assert reason(line) == expected
    assert expected in REASONS


def test_a_refusal_names_the_feature_and_its_value() -> None:
    with pytest.raises(InvalidEventError, match=r"'cpu' is '49\.8%'"):
        decode(b'{"cpu": "49.8%", "memory": 2}')


def test_columns_that_are_never_features_may_be_there() -> None:
    decoder = Decoder(SCHEMA, DataSettings(ignore=("rack",)))
    line = {"cpu": 1, "memory": 2, "disk é": 3, "rack": "a", "label": 1, "split": None, "_note": {}, "ts": 5}
    assert decode(json.dumps(line).encode(), decoder) == ([1, 2, 3], 5.0)
    del line["_note"]
    assert decode(json.dumps(line).encode(), decoder) == ([1, 2, 3], 5.0)


def test_a_time_that_cannot_be_read_costs_no_event() -> None:
    line = {"cpu": 1, "memory": 2, "disk é": 3}
    for time in ("noon", None, True, [1], 1e300, "nan"):
        values, result = decode(json.dumps({**line, "ts": time}).encode())
        assert values == [1, 2, 3]
        assert result is None


@pytest.mark.parametrize(
    "time",
    [
        1_700_000_000,
        1_700_000_000.0,
        1_700_000_000_000,
        1.7e15,
        1_700_000_000_000_000_000,
        "1700000000",
        "2023-11-14T22:13:20",
        "2023-11-14T22:13:20Z",
        "2023-11-14 23:13:20+01:00",
        "2023/11/14 22:13:20",
        "2023-11-14 22:13:20 UTC",
        "2023-11-14 23:13:20 +0100",
        "14.11.2023 22:13:20",
        "14.11.2023, 22:13:20 GMT",
    ],
)
def test_times_are_seconds_since_1970(time: Any) -> None:
    assert parse_seconds(time) == 1_700_000_000
    line = json.dumps({"ts": time, "cpu": 1, "memory": 2, "disk é": 3}).encode()
    assert decode(line)[1] == 1_700_000_000


@pytest.mark.parametrize(
    "text", ["11/14/2023 22:13:20", "14.13.2023", "1.2.2023.4", "noon UTC", "UTC", "14.11.2023 25:00"]
)
def test_text_that_is_no_time_or_ambiguous_is_no_time(text: str) -> None:
    assert parse_seconds(text) is None


def test_one_feature_is_enough() -> None:
    decoder, row = Decoder(Schema(("value",)), DataSettings()), np.zeros(1, np.float32)
    for line in (b'{"value": 2.5}', b"[2.5]", b"2.5"):
        row[0] = 0
        decoder.decode(line, memoryview(row.data).cast("B"), 0)
        assert row[0] == 2.5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*SCHEMA.features, "ts", "_x", "fan"]) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)


@given(
    st.one_of(
        st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode()), st.text().map(str.encode)
    )
)
def test_any_line_is_an_event_with_a_value_or_refused(line: bytes) -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    with suppress(NoEventError):
        try:
            values, time = decode(line, decoder)
        except InvalidEventError as error:
            assert error.reason in REASONS
        else:
            assert any(map(math.isfinite, values))
            assert not any(map(math.isinf, values))
            assert time is None or math.isfinite(time)
    assert decode(b'{"cpu": 1, "memory": 2, "disk \\u00e9": 3}', decoder)[0] == [1, 2, 3]
