from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from client.data.streams.sample import StreamSample
from client.data.streams.schema import FIRST_EVENTS, SchemaLookup, SchemaResolver
from common.model.schema import Schema
from common.settings import DataSettings

FIXED, LISTED, CURRENT, OFFERED = (Schema((name,)) for name in ("fixed", "listed", "current", "offered"))


def absent() -> None:
    return None


def resolver(
    data: DataSettings | None = None,
    fixed: Schema | None = None,
    current: SchemaLookup = absent,
    offered: SchemaLookup = absent,
) -> SchemaResolver:
    return SchemaResolver(data or DataSettings(), fixed, current, offered)


def features(events: Sequence[object], data: DataSettings | None = None) -> tuple[str, ...]:
    return sample(events, data).columns().features


def sample(events: Sequence[object], data: DataSettings | None = None) -> StreamSample:
    result = StreamSample(data or DataSettings())
    for event in events:
        result.add(event if isinstance(event, bytes) else json.dumps(event).encode())
    return result


def test_features_are_the_numbers_and_switches_of_objects() -> None:
    event = {
        "cpu": 1,
        "ts": 5,
        "label": 0,
        "_x": 1,
        "host": "a",
        "up": True,
        "memory": 0.5,
        "rack": 3,
        "tags": [],
    }
    assert features([event], DataSettings(ignore=("rack",))) == ("cpu", "up", "memory")
    columns = sample([event]).columns()
    assert columns.time == "ts"
    assert columns.ignored == {"_x": "underscore", "host": "text, such as 'a'", "tags": "a list"}
    for other in (b"[1, 2]", b"1,2", b"{}", b"{", b"\xff", b'{"a": "b"}', b"a,b"):
        assert features([other]) == ()


def test_a_time_column_that_is_set_is_the_only_one() -> None:
    assert features([{"when": 5, "ts": 1, "cpu": 2}], DataSettings(timestamp="when")) == ("ts", "cpu")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([{"uptime": 1}, *({"temp": i / 7, "flow": i % 3} for i in range(4))], ("temp", "flow")),
        ([{"temp": 1, "flow": None}, *({"temp": 1.5, "flow": i % 3} for i in range(4))], ("temp", "flow")),
        ([{"timestamp": 1764547200 + i, "seq": i, "temp": i % 2} for i in range(5)], ("temp",)),
        ([{"at": 1764547200 + 10 * i, "temp": i % 2} for i in range(5)], ("temp",)),
        (
            [{"time": f"2026-01-05 10:00:0{i}", "model": "x", "id": 5, "t": i % 2} for i in range(5)],
            ("id", "t"),
        ),
        ([{"fields": {"idle": 1.5, "user": 2}, "tags": {"host": "a"}}], ("fields.idle", "fields.user")),
        ([{"temp": str(i / 3), "on": "off", "power": "unavailable"} for i in range(5)], ("temp", "on")),
        ([{"open": "TF"[i % 2], "unit": "F", "temp": i / 3} for i in range(5)], ("open", "temp")),
        ([b"t,f,open", b"1.5,2.5,T", b"2.5,1.25,F"], ("t", "f", "open")),
        ([b"ts,temp,rpm", b"1764547201,20.36,900.8", b"1764547202,20.74,900.9"], ("temp", "rpm")),
        ([{"a": 1}, {"b": 2}, {"c": 3}, {"a": 1}, {"b": 2}], ("a", "b", "c")),
    ],
    ids=[
        "heartbeat",
        "null",
        "sequence",
        "epoch",
        "text",
        "nested",
        "number text",
        "T and F",
        "names t and f",
        "csv",
        "by turns",
    ],
)
def test_features_of_streams(events: list[object], expected: tuple[str, ...]) -> None:
    assert features(events) == expected


def test_numbers_with_units_are_a_problem_that_names_them() -> None:
    under_test = resolver()
    lines = [json.dumps({"load": f"{i}.8%", "rpm": i % 3}).encode() for i in range(FIRST_EVENTS)]
    assert under_test.from_stream(lines) == (None, [])
    assert "'load' ('0.8%')" in str(under_test.problem)


@pytest.mark.parametrize(
    ("fixed", "listed", "current", "expected"),
    [
        (FIXED, LISTED, CURRENT, FIXED),
        (None, LISTED, CURRENT, LISTED),
        (None, None, CURRENT, CURRENT),
        (None, None, None, None),
    ],
)
def test_a_fixed_version_comes_before_settings_and_these_before_the_current_version(
    fixed: Schema | None, listed: Schema | None, current: Schema | None, expected: Schema | None
) -> None:
    data = DataSettings(features=listed.features if listed else None)
    assert resolver(data, fixed, lambda: current).without_stream() == expected


def test_the_first_objects_of_the_stream_name_the_features() -> None:
    under_test = resolver()
    assert under_test.from_stream([b"hello", b"1,2"]) == (None, [])
    assert "the stream's 2 lines do not name them" in str(under_test.problem)
    assert under_test.from_stream([]) == (None, [])
    objects = [b'{"cpu": 1.5}', b'{"cpu": 1.5}', b'{"memory": 1}'] * 2
    schema, lines = under_test.from_stream(objects)
    assert schema == Schema(("cpu", "memory"))
    assert lines == [b"hello", b"1,2", *objects]
    assert under_test.problem is None


def test_a_short_stream_names_the_features_at_its_end() -> None:
    under_test = resolver()
    assert under_test.from_stream([b'{"cpu": 1}']) == (None, [])
    assert under_test.from_stream([], ended=True) == (Schema(("cpu",)), [b'{"cpu": 1}'])


def test_features_are_chosen_again_when_later_events_have_others() -> None:
    under_test = resolver()
    assert under_test.from_stream([b'{"uptime": 1}'] * FIRST_EVENTS)[0] == Schema(("uptime",))
    event = b'{"temp": 1.5, "flow": 2}'
    result = [under_test.reconsider([event]) for _ in range(100)]
    assert next(schema for schema in result if schema is not None) == Schema(("temp", "flow"))
    assert under_test.columns is not None and under_test.columns.features == ("temp", "flow")
    assert [under_test.reconsider([event]) for _ in range(1000)] == [None] * 1000


def test_a_feature_that_is_rare_for_a_while_remains_one() -> None:
    under_test = resolver()
    under_test.from_stream([b'{"temp": 1.5, "flow": 2}'] * FIRST_EVENTS)
    events = [b'{"temp": 1.5}'] * 3 + [b'{"temp": 1.5, "flow": 2}']
    assert [under_test.reconsider(events) for _ in range(100)] == [None] * 100


def test_a_version_that_training_offers_names_the_features_too() -> None:
    assert resolver(offered=lambda: OFFERED).from_stream([]) == (OFFERED, [])
    assert resolver(offered=lambda: OFFERED).from_stream([b'{"cpu": 1}']) == (OFFERED, [b'{"cpu": 1}'])


@pytest.mark.parametrize(
    "lines",
    [
        [b"cpu,memory,,", b"1,2"],
        [b"cpu,memory,", b"1,2,"],
        [b"cpu,memory", b"1,2,,"],
        [b"cpu,memory", b"int,int", b"1,2"],
    ],
)
def test_empty_cells_at_the_end_and_lines_of_types_do_not_hide_the_header(lines: list[bytes]) -> None:
    assert features([*lines[:-1], *[lines[-1]] * 5]) == ("cpu", "memory")


@pytest.mark.parametrize(
    ("line", "part"),
    [(b"cpu,cpu", "header names columns twice: 'cpu'"), (b"cpu \xb0C,memory", "are not UTF-8")],
)
def test_a_header_that_cannot_be_used_is_named(line: bytes, part: str) -> None:
    resolving = resolver()
    resolving.from_stream([line, b"1,2"])
    assert resolving.problem is not None and part in resolving.problem


def test_fields_of_inner_objects_count_if_most_features_are_among_them() -> None:
    shelly = {
        "id": 0,
        "ok": True,
        "temperature": {"tC": 20.5, "tF": 68.9},
        "power": {"apparent": 5, "active": 4},
    }
    assert features([shelly]) == (
        "id",
        "ok",
        "temperature.tC",
        "temperature.tF",
        "power.apparent",
        "power.active",
    )
    zigbee = {"temperature": 20.5, "humidity": 40, "update": {"installed": 5}}
    assert features([zigbee]) == ("temperature", "humidity")
