from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.compression.choice import Block, rng_of
from common.compression.codec import CompressionError
from common.formats import bundle
from common.formats.bundle import pack
from common.formats.zstd import MAGIC, compress, decompress
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.sketch import ScoreSketch
from common.model.version_settings import VersionSettings
from common.model.weights import digest, is_finite
from common.protocol.messages import (
    PROTOCOL,
    Describe,
    Description,
    Evaluation,
    ProtocolError,
    Task,
    TaskOptions,
    Update,
)
from common.protocol.traffic import Traffic
from common.protocol.wire import MAX_COMPRESSED_BYTES, decompressed

SUMMARY = ErrorSummary(count=5, mean=0.5, p50=0.25, p95=0.75, p99=0.875, max=1.0)
ARCHITECTURE = Architecture(2, window=1, hidden=(3,))
MOMENTS = Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
SCORES = ScoreSketch.of(np.arange(200.0))
MEASURED: dict[str, Any] = {
    "client": "edge-1",
    "version": 3,
    "rows": 100,
    "error": SUMMARY,
    "scores": SCORES,
    "residuals": Residuals.of(np.array([[4.0, 9.0]])),
    "drifted": False,
}


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields and arrays of a packed message."""
    return bundle.unpack(decompressed(content))


def manifest() -> Manifest:
    return Manifest(
        version=3,
        schema=Schema(("cpu", "memory")),
        architecture=ARCHITECTURE,
        weights=ARCHITECTURE.initial_weights(0),
        moments=MOMENTS,
        settings=VersionSettings.parse({"training": {"epochs": 1}}),
    )


def evaluation(**changes: Any) -> Evaluation:
    return Evaluation(**{**MEASURED, **changes})


def update(**changes: Any) -> Update:
    values: dict[str, Any] = {
        **MEASURED,
        "loss": 0.125,
        "train_s": 1.5,
        "difference": ARCHITECTURE.initial_weights(1),
    }
    return Update(**{**values, **changes})


MESSAGES: dict[str, Any] = {
    "Describe": Describe("no work"),
    "Description": Description("edge-1", "f00", Schema(("cpu", "memory")), MOMENTS, inline=True),
    "Task": Task(manifest()),
    "Evaluation": evaluation(),
    "Update": update(),
}
KINDS = [type(message) for message in MESSAGES.values()]

TEXT = st.text(max_size=10)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SUMMARIES = st.builds(
    ErrorSummary, count=st.integers(1), mean=NUMBER, p50=NUMBER, p95=NUMBER, p99=NUMBER, max=NUMBER
)
DIFFERENCES = st.dictionaries(
    TEXT.filter(lambda n: n != "__metadata__"), hnp.arrays(np.float32, (2, 2)), max_size=3
)


@given(st.none() | TEXT)
def test_a_question_comes_back(refused: str | None) -> None:
    assert Describe.unpack(Describe(refused).pack()) == Describe(refused)


@settings(deadline=None)
@given(
    TEXT, TEXT, st.booleans(), st.permutations(["a", "b", "ü"]),
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e9, 1e9)),
)  # fmt: skip
def test_a_description_comes_back(
    client: str, instance: str, inline: bool, names: list[str], rows: Any
) -> None:
    sent = Description(client, instance, Schema(tuple(names)), Moments.of(rows), inline)
    back = Description.unpack(sent.pack())
    assert (back.client, back.instance, back.inline, back.schema) == (client, instance, inline, sent.schema)
    assert back.moments.count == 4
    for name in ("mean", "m2", "minimum", "maximum"):
        assert np.array_equal(getattr(back.moments, name), getattr(sent.moments, name))


def test_a_task_comes_back() -> None:
    back = Task.unpack(Task(manifest()).pack())
    assert back.manifest.hash == manifest().hash


@settings(deadline=None)
@given(TEXT, st.integers(0), st.integers(1), SUMMARIES, st.booleans())
def test_an_evaluation_comes_back(
    client: str, version: int, rows: int, error: ErrorSummary, drifted: bool
) -> None:
    sent = evaluation(client=client, version=version, rows=rows, error=error, drifted=drifted)
    back = Evaluation.unpack(sent.pack())
    for name in ("client", "version", "rows", "error", "drifted"):
        assert getattr(back, name) == getattr(sent, name)
    assert back.scores.pack() == SCORES.pack()
    assert back.residuals.packed().tolist() == [1, 4, 9]


@settings(deadline=None)
@given(TEXT, st.integers(0), SUMMARIES, NUMBER, NUMBER, DIFFERENCES)
def test_an_update_comes_back(
    client: str, version: int, error: ErrorSummary, loss: float, train_s: float, difference: Any
) -> None:
    sent = update(
        client=client, version=version, error=error, loss=loss, train_s=train_s, difference=difference
    )
    back = Update.unpack(sent.pack())
    assert digest(back.difference) == digest(difference)
    for name in ("client", "version", "rows", "error", "loss", "train_s"):
        assert getattr(back, name) == getattr(sent, name)


# What is not the expected message.


@pytest.mark.parametrize("sent", MESSAGES)
@pytest.mark.parametrize("expected", KINDS, ids=lambda kind: kind.__name__)
def test_another_message_is_refused_by_name(sent: str, expected: Any) -> None:
    if expected.__name__ == sent:
        assert type(expected.unpack(MESSAGES[sent].pack())) is expected
    else:
        with pytest.raises(ProtocolError, match=f"expected a {expected.__name__}, received a {sent}"):
            expected.unpack(MESSAGES[sent].pack())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [0, PROTOCOL + 1])
def test_another_protocol_version_asks_for_an_upgrade(kind: Any, protocol: int) -> None:
    fields, arrays = unpack(MESSAGES[kind.__name__].pack())
    with pytest.raises(
        ProtocolError, match=f"protocol {protocol}, but this program speaks {PROTOCOL}: upgrade"
    ):
        kind.unpack(pack({**fields, "protocol": protocol}, arrays))


def test_a_bundle_that_is_no_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not a Task"):
        Task.unpack(manifest().pack())


PARTS = [(n, field) for n, message in MESSAGES.items() for field in sorted(unpack(message.pack())[0])]
ARRAYS = [(n, name) for n, message in MESSAGES.items() for name in sorted(unpack(message.pack())[1])]


@pytest.mark.parametrize(("name", "field"), [part for part in PARTS if part != ("Describe", "refused")])
def test_a_message_without_one_of_its_fields_is_refused(name: str, field: str) -> None:
    fields, arrays = unpack(MESSAGES[name].pack())
    with pytest.raises(ProtocolError):
        type(MESSAGES[name]).unpack(pack({n: v for n, v in fields.items() if n != field}, arrays))


@pytest.mark.parametrize(
    ("name", "array"), [part for part in ARRAYS if not part[1].startswith("difference/")]
)
def test_a_message_without_one_of_its_arrays_is_refused(name: str, array: str) -> None:
    fields, arrays = unpack(MESSAGES[name].pack())
    with pytest.raises(ProtocolError):
        type(MESSAGES[name]).unpack(pack(fields, {n: a for n, a in arrays.items() if n != array}))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_an_unknown_field_is_refused_or_leaves_it_out(name: str) -> None:
    fields, arrays = unpack(MESSAGES[name].pack())
    content = pack({**fields, "surprise": 1}, arrays)
    try:
        assert not hasattr(type(MESSAGES[name]).unpack(content), "surprise")
    except ProtocolError as error:
        assert "surprise" in str(error)


# No value of another kind comes through: the server does arithmetic with what clients say.


def accepted(name: str, values: dict[str, list[Any]]) -> list[str]:
    """Which of these values a message of this name may hold, each in a message that is sound otherwise."""
    fields, arrays = unpack(MESSAGES[name].pack())
    found = []
    for field, candidates in values.items():
        for value in candidates:
            part, _, inner = field.partition(".")
            changed = {**fields[part], inner: value} if inner else value
            try:
                type(MESSAGES[name]).unpack(pack({**fields, part: changed}, arrays))
            except ProtocolError:
                continue
            found.append(f"{field} = {value!r}")
    return found


NO_TEXT: list[Any] = [None, 3, True, [], ["x"], {}]
NO_COUNT: list[Any] = [None, 1.5, "3", [], {}]
NO_NUMBER: list[Any] = [None, "0.5", [], [0.5], {}]
ANSWER = {
    "client": NO_TEXT,
    "version": NO_COUNT,
    "rows": NO_COUNT,
    "error": [None, "low", [], {}, {"mean": 0.5}],
    "error.count": NO_COUNT,
    **{f"error.{name}": NO_NUMBER for name in ("mean", "p50", "p95", "p99", "max")},
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Describe", {"refused": [3, [], {}]}),
        (
            "Description",
            {
                "client": NO_TEXT,
                "instance": NO_TEXT,
                "inline": [None, "yes", [], {}],
                "count": [*NO_COUNT, 0, -1],
                "features": [None, 2, "ab", [], [1, 2], ["a", "a"], ["a"], [["a"], ["b"]], {}],
            },
        ),
        ("Evaluation", ANSWER),
        ("Update", {**ANSWER, "loss": NO_NUMBER, "train_s": NO_NUMBER}),
    ],
)
def test_values_of_the_wrong_type_are_refused(name: str, values: dict[str, list[Any]]) -> None:
    assert accepted(name, values) == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"mean": np.array([np.nan, 0.0])},
        {"m2": np.array([np.inf, 0.0])},
        {"minimum": np.zeros(3)},
        {"maximum": np.zeros((2, 1))},
        {"m2": np.array([-1.0, 0.0])},
    ],
    ids=["NaN", "infinite", "of 3", "of 2 x 1", "negative spread"],
)
def test_moments_that_cannot_be_are_refused(arrays: dict[str, Any]) -> None:
    fields, original = unpack(MESSAGES["Description"].pack())
    with pytest.raises(ProtocolError):
        Description.unpack(pack(fields, {**original, **arrays}))


def test_a_damaged_manifest_in_a_task_is_refused() -> None:
    content = np.frombuffer(manifest().pack(), np.uint8).copy()
    content[content.tobytes().index(manifest().weights["dense_0/kernel"].tobytes())] ^= 1
    with pytest.raises(ProtocolError, match="manifest: hash is"):
        Task.unpack(pack({"message": "Task", "protocol": PROTOCOL}, {"manifest": content}))


def test_a_manifest_without_its_hash_in_a_task_is_refused() -> None:
    fields, arrays = unpack(manifest().pack())
    del fields["hash"]
    content = np.frombuffer(pack(fields, arrays), np.uint8)
    with pytest.raises(ProtocolError):
        Task.unpack(pack({"message": "Task", "protocol": PROTOCOL}, {"manifest": content}))


VALUES = (
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT | st.lists(TEXT | st.integers(), max_size=2)
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_any_bytes_are_a_message_or_refused(name: str, data: st.DataObject) -> None:
    packed = MESSAGES[name].pack()
    fields, arrays = unpack(packed)
    names = st.sampled_from(sorted(fields))
    content = data.draw(
        st.one_of(
            st.binary(max_size=60),
            st.tuples(st.integers(0, len(packed) - 1), st.binary(min_size=1, max_size=8)).map(
                lambda t: packed[: t[0]] + t[1] + packed[t[0] + len(t[1]) :]
            ),
            st.dictionaries(names, VALUES, max_size=2).map(
                lambda changes: pack({**fields, **changes}, arrays)
            ),
        )
    )
    for kind in KINDS:
        with suppress(ProtocolError):
            assert isinstance(kind.unpack(content), kind)


def test_an_encoded_update_comes_back_and_is_decoded() -> None:
    block = Block.of("int8+zstd", ARCHITECTURE.initial_weights(1), rng_of(0))
    sent = update(block=block, serial=7, traffic=Traffic(1, 2, 3, 4, 0.5))
    back = Update.unpack(sent.pack())
    assert (back.block, back.serial, back.traffic, back.difference) == (block, 7, sent.traffic, {})
    assert digest(back.decoded(ARCHITECTURE.shapes).difference) == digest(block.decoded(ARCHITECTURE.shapes))
    with pytest.raises(CompressionError):
        back.decoded({"w": (3,)})


def test_of_an_update_little_travels_but_its_block() -> None:
    """The rest is 500 bytes where nothing is known beforehand of how messages are worded."""
    own = np.random.default_rng(0)
    error = ErrorSummary.of(own.gamma(1, 1, 864).astype(np.float32))
    traffic = Traffic(123456, 654321, 77777, 43210, 1.234567, 0.012345, 0.023456)
    sent = update(
        error=error, scores=ScoreSketch(), difference={}, serial=2**39, traffic=traffic,
        block=Block("ternary:0.1", own.bytes(2000)),
    )  # fmt: skip
    assert len(sent.pack()) - 2000 < 300


@pytest.mark.parametrize("name", ["Describe", "Description"])
def test_whoever_speaks_another_protocol_can_read_an_introduction(name: str) -> None:
    """It must tell whose program is too old; so it is squeezed as every protocol squeezes."""
    packed = MESSAGES[name].pack()
    content = decompress(packed, MAX_COMPRESSED_BYTES) if packed.startswith(MAGIC) else packed
    assert bundle.unpack(content)[0]["protocol"] == PROTOCOL


def test_a_squeezed_message_may_not_grow_without_end() -> None:
    for bomb in (compress(bytes(MAX_COMPRESSED_BYTES + 1)), compress(b"x" * 10), MAGIC):
        with pytest.raises(ProtocolError, match="not a Task"):
            Task.unpack(bomb)


def test_the_terms_of_a_task_come_back() -> None:
    terms = TaskOptions("topk:0.1+zstd", True, (1, 2), (3,))
    assert Task.unpack(Task(manifest(), 4, terms).pack()).terms == terms


def test_an_update_may_hold_what_the_gate_must_refuse() -> None:
    """Whether values can be used is decided by the gate, which can say so to the client by name."""
    wild = {"w": np.array([np.nan], np.float32)}
    assert not is_finite(Update.unpack(update(difference=wild).pack()).difference)
