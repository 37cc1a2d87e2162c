"""The contract of codecs, checked on every codec that `choice` lists."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.compression.choice import CODEC_NAMES, find_codec
from common.compression.codec import CompressionError
from common.compression.zstd import compress
from common.model.weights import Shapes, Weights, flatten, shapes, size_of, unflatten

SPECS = ["none", "int8", "topk:0.1", "topk:1", "ternary:0.1", "ternary:1"]
ALL = [spec + zstd for spec in SPECS for zstd in ("", "+zstd")]
SHAPES: Shapes = {"dense_0/kernel": (9, 7), "dense_0/bias": (7,), "scale": ()}

VALUES = st.floats(-1e3, 1e3, width=32)
UPDATES = st.fixed_dictionaries({n: hnp.arrays(np.float32, s, elements=VALUES) for n, s in SHAPES.items()})
every_codec = pytest.mark.parametrize("spec", ALL)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def drawn(of: Shapes = SHAPES, seed: int = 0) -> Weights:
    own = np.random.default_rng(seed)
    return {n: own.standard_normal(s).astype(np.float32) for n, s in of.items()}


def worst(a: Weights, b: Weights) -> float:
    return float(np.abs(flatten(a).astype(float) - flatten(b)).max(initial=0.0))


def test_every_codec_is_in_this_list() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(CODEC_NAMES)


@every_codec
@settings(max_examples=40, deadline=None)
@given(values=UPDATES)
def test_what_comes_back_is_within_the_stated_bound(spec: str, values: Weights) -> None:
    codec = find_codec(spec)
    content = codec.encode(values, rng())
    back = codec.decode(content, SHAPES)
    assert shapes(back) == SHAPES
    assert list(back) == list(SHAPES)
    assert {array.dtype for array in back.values()} == {np.dtype(np.float32)}
    assert worst(values, back) <= codec.max_error(values)
    assert len(content) <= codec.max_bytes(SHAPES)


@every_codec
@pytest.mark.parametrize("magnitude", [0.0, 1e-42, 1e-30, 1.0, 1e20, 3e38])
def test_the_bound_holds_for_tiny_and_huge_updates(spec: str, magnitude: float) -> None:
    codec = find_codec(spec)
    values = {n: (a / np.abs(a).max() * magnitude).astype(np.float32) for n, a in drawn().items()}
    back = codec.decode(codec.encode(values, rng()), SHAPES)
    assert worst(values, back) <= codec.max_error(values)


@every_codec
def test_a_bound_says_something(spec: str) -> None:
    """The error is nowhere near as large as twice the norm of the update, which any nonsense would reach."""
    values = drawn()
    assert find_codec(spec).max_error(values) < 1.5 * float(np.linalg.norm(flatten(values)))


@pytest.mark.parametrize("spec", [spec for spec in ALL if find_codec(spec).unbiased])
def test_an_unbiased_codec_is_right_on_average(spec: str) -> None:
    codec, values, own = find_codec(spec), drawn(), rng()
    many = [flatten(codec.decode(codec.encode(values, own), SHAPES)) for _ in range(2000)]
    # Each error is below one bound, so the mean of 2000 lies within six standard errors of nothing.
    assert np.abs(np.mean(many, axis=0, dtype=np.float64) - flatten(values)).max() <= 6 * codec.max_error(
        values
    ) / np.sqrt(2000)


@every_codec
def test_the_order_of_the_arrays_does_not_matter(spec: str) -> None:
    values = drawn()
    turned = dict(reversed(values.items()))
    codec = find_codec(spec)
    assert codec.encode(values, rng()) == codec.encode(turned, rng())


@every_codec
@pytest.mark.parametrize(
    "of", [{}, {"a": ()}, {"a": (1,)}, {"a": (0, 3)}, {"a": (1, 1), "b": (2, 3)}], ids=str
)
def test_small_and_empty_models_come_back(spec: str, of: Shapes) -> None:
    values, codec = drawn(of), find_codec(spec)
    back = codec.decode(codec.encode(values, rng()), of)
    assert shapes(back) == of
    assert worst(values, back) <= codec.max_error(values)


# What a hostile peer may send.


@every_codec
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_value_or_a_clear_error(spec: str, data: st.DataObject) -> None:
    codec = find_codec(spec)
    sound = codec.encode(drawn(seed=data.draw(st.integers(0, 9))), rng())
    at = data.draw(st.integers(0, len(sound)))
    noise = data.draw(st.binary(max_size=12))
    whole = data.draw(st.binary(max_size=300))
    for content in (
        whole,
        sound[:at],
        sound[:at] + noise + sound[at + len(noise) :],
        sound + noise,
        compress(whole),
    ):
        with suppress(CompressionError):
            assert shapes(codec.decode(content, SHAPES)) == SHAPES


@every_codec
def test_one_byte_less_or_more_is_refused(spec: str) -> None:
    codec = find_codec(spec)
    content = codec.encode(drawn(), rng())
    for damaged in (b"", content[:-1], content + b"\0"):
        with pytest.raises(CompressionError):
            codec.decode(damaged, SHAPES)


@every_codec
def test_bytes_for_another_model_are_refused(spec: str) -> None:
    content = find_codec(spec).encode(drawn({"a": (40, 30)}), rng())
    with pytest.raises(CompressionError):
        find_codec(spec).decode(content, {"a": (4, 3)})


@every_codec
def test_decoding_allocates_no_more_than_a_few_models(spec: str) -> None:
    of: Shapes = {"a": (500, 400)}
    codec = find_codec(spec)
    contents = [codec.encode(drawn(of), rng()), b"\xff" * codec.max_bytes(of), bytes(codec.max_bytes(of))]
    contents.append(compress(bytes(200_000_000)))  # 200 MB that arrive as a few kilobytes
    for content in contents:
        tracemalloc.start()
        try:
            with suppress(CompressionError):
                codec.decode(content, of)
            assert tracemalloc.get_traced_memory()[1] <= 100 * size_of(of)
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "spec",
    ["", "zip", "none:1", "int8:2", "topk", "topk:0", "topk:1.5", "topk:nan", "topk:x",
     "lowrank:2", "sign", "+zstd", "int8+zstd+zstd"],
)  # fmt: skip
def test_a_name_that_is_not_a_codec_is_refused(spec: str) -> None:
    with pytest.raises(CompressionError, match=r"there is no codec .*; there are none, int8, topk, ternary"):
        find_codec(spec)


def test_rows_are_cut_where_they_were_joined() -> None:
    values = drawn()
    back = unflatten(flatten(values), SHAPES)
    assert all(np.array_equal(values[n], back[n]) for n in SHAPES)
