"""Messages come back as they were sent, and no field comes back outside its bounds."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.bounds import MAX_COUNT, MAX_FEATURE_NAME, MAX_NAME, MAX_SERIAL
from common.compression.choice import Block, seeded_rng
from common.compression.codec import CompressionError
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.weights import digest, is_finite
from common.protocol.messages import Describe, Description, Evaluation, Traffic, Update
from common.protocol.wire import ProtocolError, pack, unpack
from tests.common.protocol.sample_messages import (
    ARCHITECTURE,
    MEASURED,
    MESSAGES,
    MOMENTS,
    SCORES,
    changed,
    packed,
)

TEXT = st.text(max_size=10)
NAME = st.text(min_size=1, max_size=10)
NUMBER = st.floats(0, allow_nan=False, allow_infinity=False)
COUNT = st.integers(1, MAX_COUNT)
SUMMARIES = st.builds(ErrorSummary, count=COUNT, mean=NUMBER, p50=NUMBER, p95=NUMBER, p99=NUMBER, max=NUMBER)


def update(**changes: Any) -> Update:
    values = {"loss": 0.125, "train_s": 1.5, "difference": ARCHITECTURE.initial_weights(1)}
    return Update(**{**MEASURED, **values, **changes})


@given(st.none() | TEXT)
def test_a_question_comes_back(refused: str | None) -> None:
    assert unpack(pack(Describe(refused)), Describe) == Describe(refused)


@settings(deadline=None)
@given(
    NAME, TEXT, st.booleans(), st.permutations(["a", "b", "ü"]),
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e9, 1e9)), st.sampled_from(["", "0af1" * 16]),
)  # fmt: skip
def test_a_description_comes_back(
    client: str, instance: str, inline: bool, names: list[str], rows: Any, held: str
) -> None:
    sent = Description(client, instance, Schema(tuple(names)), Moments.of(rows), inline, held=held)
    back = unpack(pack(sent), Description)
    assert (back.client, back.instance, back.inline) == (client, instance, inline)
    assert (back.schema, back.codecs, back.held) == (sent.schema, sent.codecs, held)
    assert back.moments.count == 4
    for name in ("mean", "m2", "minimum", "maximum", "within"):
        assert np.array_equal(getattr(back.moments, name), getattr(sent.moments, name))


@settings(deadline=None)
@given(NAME, st.integers(0, MAX_COUNT), COUNT, SUMMARIES, st.booleans())
def test_an_evaluation_comes_back(
    client: str, version: int, rows: int, error: ErrorSummary, drifted: bool
) -> None:
    values = {**MEASURED, "client": client, "version": version, "rows": rows, "error": error}
    sent = Evaluation(**{**values, "drifted": drifted})
    back = unpack(pack(sent), Evaluation)
    for name in ("client", "version", "rows", "error", "drifted", "traffic"):
        assert getattr(back, name) == getattr(sent, name)
    assert back.scores.pack() == SCORES.pack()
    assert back.residuals.packed().tolist() == [1, 4, 9]


@settings(deadline=None)
@given(SUMMARIES, NUMBER, st.floats(0, 1e6), st.integers(0, 99))
def test_an_update_comes_back(error: ErrorSummary, loss: float, train_s: float, seed: int) -> None:
    difference = ARCHITECTURE.initial_weights(seed)
    sent = update(error=error, loss=loss, train_s=train_s, difference=difference)
    back = unpack(pack(sent), Update)
    for name in ("client", "version", "rows", "error", "loss", "train_s", "serial"):
        assert getattr(back, name) == getattr(sent, name)
    assert back.difference == {}
    assert digest(back.decoded(ARCHITECTURE.shapes).difference) == digest(difference)


def test_an_encoded_update_comes_back_and_is_decoded() -> None:
    block = Block.of("int8+zstd", ARCHITECTURE.initial_weights(1), seeded_rng(0))
    sent = update(block=block, serial=7, traffic=Traffic(1, 2, 3, 4, 0.5))
    back = unpack(pack(sent), Update)
    assert (back.block, back.serial, back.traffic, back.difference) == (block, 7, sent.traffic, {})
    assert digest(back.decoded(ARCHITECTURE.shapes).difference) == digest(block.decoded(ARCHITECTURE.shapes))
    with pytest.raises(CompressionError):
        back.decoded({"w": (3,)})


def test_an_update_may_hold_weights_that_admission_refuses() -> None:
    """Whether weights can be used is decided by admission, which counts the reason for the client."""
    wild = {"w": np.array([np.nan], np.float32)}
    back = unpack(pack(update(difference=wild)), Update)
    assert not is_finite(back.decoded({"w": (1,)}).difference)


# Bounds. Paths are indices into the array that a message travels as; its first value is the kind.

LONG_TEXT, WRONG_TEXTS = "x" * 70_000, [None, 3, True, [], ["x"], {}]
WRONG_COUNTS = [None, 1.5, "3", True, [], {}, -1, MAX_COUNT + 1, 2**63]
WRONG_FLAGS = [None, 0, "yes", [], {}]
WRONG_NUMBERS = [None, "0.5", True, [], [0.5], {}, math.nan, math.inf, -math.inf]
SIZES = [*WRONG_NUMBERS, -0.5]
WRONG_BYTES = [None, 3, True, "text", [], {}]
WRONG_STRUCTS = [None, 3, "low", {}, [], [1], b""]

EVALUATION: list[tuple[tuple[int, ...], list[Any], str]] = [
    ((1,), [*WRONG_TEXTS, "", "x" * (MAX_NAME + 1)], "client"),
    ((2,), WRONG_COUNTS, "version"),
    ((3,), [*WRONG_COUNTS, 0], "rows"),
    ((4,), WRONG_STRUCTS, "error"),
    ((4, 0), [*WRONG_COUNTS, 0], "error.count"),
    *(((4, 1 + i), SIZES, f"error.{n}") for i, n in enumerate(("mean", "p50", "p95", "p99", "max"))),
    ((5,), [*WRONG_BYTES, b"no histogram"], "scores"),
    ((6,), WRONG_FLAGS, "drifted"),
    ((7,), [None, 3, {}, b"", [1] * 9], "traffic"),
    ((7, 0), [None, 1.5, -1, 2**63], "traffic.sent_bytes"),
    ((7, 4), [*SIZES, 1e13], "traffic.timed_s"),
    ((8,), [None, 3, {}, b"", [1, b""], [0, b"12345678"], [-1, b""]], "residuals"),
    ((8, 1), [*WRONG_BYTES, b"123", *(np.array([x]).tobytes() for x in (np.nan, -1.0))], "residuals"),
]  # fmt: skip
BOUNDS: dict[str, list[tuple[tuple[int, ...], list[Any], str]]] = {
    "Describe": [((1,), [3, True, [], {}, LONG_TEXT], "refused")],
    "Description": [
        ((1,), [*WRONG_TEXTS, "", "x" * (MAX_NAME + 1)], "client"),
        ((2,), [*WRONG_TEXTS, "x" * 65], "instance"),
        ((3,), [None, 2, "ab", {}, [["a", "b"], 1]], "schema"),
        ((3, 0), [None, 2, "ab", [], {}], "schema.features"),
        ((3, 0, 0), [None, 2, [], "x" * (MAX_FEATURE_NAME + 1)], r"schema.features\[0\]"),
        ((3, 0), [["a", "a"]], "features named twice"),
        ((3, 0), [["a"]], "2 moments of 1 features"),
        ((4, 0), [*WRONG_COUNTS, 0], "moments.count"),
        ((4, 1), [None, 3, "*", "AAAA", []], "moments.mean"),
        ((5,), WRONG_FLAGS, "inline"),
        ((6,), WRONG_FLAGS, "drifted"),
        ((7,), [None, "none", ["none"] * 65, [3], ["x" * 65]], "codecs"),
        ((8,), [None, 3, "0" * 63, "G" * 64, "0" * 65], "held"),
    ],
    "Evaluation": EVALUATION,
    "Update": [
        *EVALUATION,
        ((9,), SIZES, "loss"),
        ((10,), [*SIZES, 1e13], "train_s"),
        ((11,), [None, [], {"w": b"12345678"}], "difference"),
        ((12,), [None, 1.5, "3", -1, MAX_SERIAL + 1], "serial"),
        ((13,), [3, "none", {}, [], ["none"], ["none", 3], [3, b""], ["x" * 65, b""]], "block"),
    ],
    "WholeVersion": [
        ((1,), WRONG_BYTES, "manifest"),
        ((2,), WRONG_COUNTS, "repeats"),
        ((3,), [None, 3, {}, ""], "options"),
        ((3, 2), [None, 3, [-1], ["x"], [MAX_SERIAL + 1], [1] * 70_000], "options.used"),
    ],
    "VersionChange": [
        ((1,), WRONG_COUNTS, "version"),
        ((2,), [None, "", "0" * 63, b"0" * 64], "hash"),
        ((3,), [None, 3, {}, [3], [[4]], [[4, ["int8"]]], [[-4, ["int8", b""]]]], "steps"),
        ((4,), [*WRONG_BYTES, b"no histogram"], "scores"),
        ((6,), WRONG_COUNTS, "repeats"),
    ],
    "VersionMissing": [((1,), [*WRONG_TEXTS, ""], "client"), ((2,), [*WRONG_TEXTS, LONG_TEXT], "reason")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "path", "values", "field"), [(kind, *case) for kind, cases in BOUNDS.items() for case in cases]
)
def test_a_value_outside_its_bounds_is_refused_by_the_name_of_the_field(
    kind: str, path: tuple[int, ...], values: list[Any], field: str
) -> None:
    for value in values:
        if kind in ("Describe", "Description") and isinstance(value, float) and not math.isfinite(value):
            continue  # JSON does not have them
        with pytest.raises(ProtocolError, match=f"^{kind} is incomplete or wrong: .*{field}"):
            unpack(changed(kind, path, value), type(MESSAGES[kind]))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_without_its_last_field_or_with_one_more_is_refused(name: str) -> None:
    kind = type(MESSAGES[name])
    content = changed(name, (0,), kind.__struct_config__.tag)
    unpack(content, kind)
    fields = [kind.__struct_config__.tag, *[None] * (len(kind.__struct_fields__) + 1)]
    for wrong in (fields[:1] if name != "Describe" else fields, fields):
        with pytest.raises(ProtocolError):
            unpack(packed(name, wrong), kind)


@pytest.mark.parametrize(
    "columns",
    [
        {"mean": np.array([np.nan, 0.0])},
        {"m2": np.array([np.inf, 0.0])},
        {"minimum": np.zeros(3)},
        {"m2": np.array([-1.0, 0.0])},
    ],
    ids=["NaN", "infinite", "of 3", "negative spread"],
)
def test_moments_that_cannot_be_are_refused(columns: dict[str, Any]) -> None:
    (name, column), *_ = columns.items()
    index = MOMENTS.__struct_fields__.index(name)
    content = changed("Description", (4, index), base64.b64encode(column.tobytes()).decode())
    with pytest.raises(ProtocolError, match=f"moments: .*moments: '{name}'"):
        unpack(content, Description)


def test_a_restarted_process_counts_from_zero() -> None:
    assert Traffic(sent_bytes=5, encode_s=0.5).since(Traffic(sent_bytes=9)) == Traffic(5, encode_s=0.5)
    assert Traffic(9, 9).since(Traffic(5, 1)) == Traffic(4, 8)
