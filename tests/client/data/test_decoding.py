from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.decoding import MAX_BYTES, REASONS, Decoder, HeaderLineError, InvalidEventError
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

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
    with pytest.raises(HeaderLineError):
        decode("ts, disk é ,rack,cpu,label,memory".encode(), decoder)
    assert decode(b"60,3,x,1,,2", decoder) == ([1, 2, 3], 60.0)
    assert reason(b"1,2,3", decoder) == "missing_feature"
    with pytest.raises(HeaderLineError):
        decode("cpu,memory,disk é".encode(), decoder)
    assert decode(b"1,2,3", decoder) == ([1, 2, 3], None)


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
        (b'{"cpu": 1, "memory": "\xff"}', "not_utf8"),
        (b"\xff\xfe", "not_utf8"),
        (b'{"cpu": [1], "memory": 2, "disk \\u00e9": 3}', "wrong_type"),
        (b'{"cpu": true, "memory": 2, "disk \\u00e9": 3}', "wrong_type"),
        (b'{"cpu": "high", "memory": 2, "disk \\u00e9": 3}', "wrong_type"),
        (b'[1, 2, "x"]', "wrong_type"),
        (b"1,2,x", "wrong_type"),
        (b"1,2,1_0", "wrong_type"),
        (b'{"cpu": "1.5", "memory": 2, "disk \\u00e9": 3}', "number_as_text"),
        (b'[1, 2, "3"]', "number_as_text"),
        (b'{"cpu": 1, "memory": 2}', "missing_feature"),
        (b"{}", "missing_feature"),
        (b'{"cpu": null, "memory": 2, "disk \\u00e9": 3}', "missing_feature"),
        (b"[1, 2]", "missing_feature"),
        (b"[1, 2, null]", "missing_feature"),
        (b"1,2", "missing_feature"),
        (b"1,,3", "missing_feature"),
        (b'{"cpu": 1, "memory": 2, "disk \\u00e9": 3, "fan": 4}', "extra_feature"),
        (b"[1, 2, 3, 4]", "extra_feature"),
        (b"1,2,3,4", "extra_feature"),
        ("cpu,memory,disk é,fan".encode(), "extra_feature"),
        (b'{"cpu": NaN, "memory": 2, "disk \\u00e9": 3}', "not_finite"),
        (b'{"cpu": -Infinity, "memory": 2, "disk \\u00e9": 3}', "not_finite"),
        (b'{"cpu": 1e39, "memory": 2, "disk \\u00e9": 3}', "not_finite"),
        (b'{"cpu": 1e999, "memory": 2, "disk \\u00e9": 3}', "not_finite"),
        (b'{"cpu": 1' + b"0" * 400 + b', "memory": 2, "disk \\u00e9": 3}', "not_finite"),
        (b"[1, 2, NaN]", "not_finite"),
        (b"[1, 2, 1e39]", "not_finite"),
        (b"1,2,inf", "not_finite"),
        (b"1,nan,3", "not_finite"),
        (b"1,2,1e39", "not_finite"),
        (b"x" * (MAX_BYTES + 1), "too_long"),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_what_is_no_event_is_refused_with_a_reason(line: bytes, expected: str) -> None:
    assert reason(line) == expected
    assert expected in REASONS


def test_a_refusal_names_the_feature() -> None:
    for line, name in (
        (b'{"cpu": 1, "memory": 2}', "disk é"),
        (b'{"cpu": "1", "memory": 2, "disk \\u00e9": 3}', "cpu"),
        (b"[1, 1e39, 2]", "memory"),
    ):
        with pytest.raises(InvalidEventError, match=name):
            decode(line)


def test_columns_that_are_never_features_may_be_there() -> None:
    decoder = Decoder(SCHEMA, DataSettings(ignore=("rack",)))
    line = {"cpu": 1, "memory": 2, "disk é": 3, "rack": "a", "label": 1, "split": None, "_note": {}, "ts": 5}
    assert decode(json.dumps(line).encode(), decoder) == ([1, 2, 3], 5.0)
    del line["_note"]
    assert decode(json.dumps(line).encode(), decoder) == ([1, 2, 3], 5.0)


def test_a_time_that_cannot_be_read_costs_no_event() -> None:
    line = {"cpu": 1, "memory": 2, "disk é": 3}
    for time in ("noon", None, True, [1], {}, 1e300, "nan"):
        values, found = decode(json.dumps({**line, "ts": time}).encode())
        assert values == [1, 2, 3]
        assert found is None


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
    ],
)
def test_times_are_seconds_since_1970(time: Any) -> None:
    assert parse_seconds(time) == 1_700_000_000
    line = json.dumps({"ts": time, "cpu": 1, "memory": 2, "disk é": 3}).encode()
    assert decode(line)[1] == 1_700_000_000


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
def test_any_line_is_an_event_of_finite_values_or_refused(line: bytes) -> None:
    decoder = Decoder(SCHEMA, DataSettings())
    with suppress(HeaderLineError):
        try:
            values, time = decode(line, decoder)
        except InvalidEventError as error:
            assert error.reason in REASONS
        else:
            assert all(map(math.isfinite, values))
            assert time is None or math.isfinite(time)
    assert decode(b'{"cpu": 1, "memory": 2, "disk \\u00e9": 3}', decoder)[0] == [1, 2, 3]
