from __future__ import annotations

import json

import pytest

from client.data.stream_schema import SchemaLookup, SchemaResolver, schema_of_object
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


def test_features_are_the_numbers_of_an_object() -> None:
    line = {"cpu": 1, "ts": 5, "label": 0, "_x": 1, "host": "a", "up": True, "memory": 0.5, "rack": 3}
    data = DataSettings(ignore=("rack",))
    assert schema_of_object(json.dumps(line).encode(), data) == Schema(("cpu", "memory"))
    for other in (b"[1, 2]", b"1,2", b"{}", b"{", b"\xff", b'{"a": "b"}'):
        assert schema_of_object(other, data) is None


def test_the_time_column_is_not_a_feature_whatever_its_name() -> None:
    line = b'{"when": 5, "ts": 1, "cpu": 2}'
    assert schema_of_object(line, DataSettings(timestamp="when")) == Schema(("ts", "cpu"))


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


def test_the_first_object_of_the_stream_names_the_features() -> None:
    under_test = resolver()
    assert under_test.from_stream([b"cpu,memory", b"1,2"]) is None
    assert under_test.skipped_lines == 2
    assert under_test.from_stream([]) is None
    assert under_test.from_stream([b"3,4", b'{"cpu": 1}', b'{"memory": 1}']) == Schema(("cpu",))
    assert under_test.skipped_lines == 2


def test_a_version_that_training_offers_names_the_features_too() -> None:
    assert resolver(offered=lambda: OFFERED).from_stream([]) == OFFERED
    assert resolver(offered=lambda: OFFERED).from_stream([b'{"cpu": 1}']) == OFFERED
