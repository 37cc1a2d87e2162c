"""What single codecs are for, in bytes and in shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression import indices
from common.compression.choice import automatic, named, rng_of, supported
from common.compression.codec import CompressionError
from common.model.weights import Weights

SHAPES = {"kernel": (200, 64), "bias": (64,)}


def drawn() -> Weights:
    own = np.random.default_rng(3)
    return {n: own.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


@pytest.mark.parametrize(
    ("spec", "at_most"),
    [("float16", 0.5), ("int8", 0.251), ("sign", 0.032), ("topk:0.01", 0.014), ("topk_int8:0.01", 0.006),
     ("ternary:0.1", 0.0185), ("lowrank:1", 0.014)],
)  # fmt: skip
def test_bytes_are_a_share_of_float32(spec: str, at_most: float) -> None:
    size = 4 * sum(a.size for a in drawn().values())
    assert len(named(spec).encode(drawn(), rng_of())) <= at_most * size


def test_topk_keeps_the_largest_exactly_and_nothing_else() -> None:
    values = {"a": np.array([0.1, -5.0, 0.2, 3.0, -0.3], np.float32)}
    codec = named("topk:0.4")
    back = codec.decode(codec.encode(values, rng_of()), {"a": (5,)})
    assert back["a"].tolist() == [0.0, -5.0, 0.0, 3.0, 0.0]


def test_sign_says_direction_and_mean_magnitude() -> None:
    values = {"a": np.array([1.0, -2.0, 3.0], np.float32), "b": np.array([-8.0], np.float32)}
    codec = named("sign")
    back = codec.decode(codec.encode(values, rng_of()), {"a": (3,), "b": (1,)})
    assert back["a"].tolist() == [2.0, -2.0, 2.0]
    assert back["b"].tolist() == [-8.0]


def test_a_matrix_of_low_rank_comes_back_whole() -> None:
    own = np.random.default_rng(0)
    matrix = (own.standard_normal((60, 2)) @ own.standard_normal((2, 40))).astype(np.float32)
    codec = named("lowrank:2")
    back = codec.decode(codec.encode({"m": matrix}, rng_of()), {"m": (60, 40)})
    np.testing.assert_allclose(back["m"], matrix, atol=0.02)


def test_more_ranks_leave_a_smaller_error() -> None:
    values = drawn()
    errors = []
    for rank in range(1, 5):
        codec = named(f"lowrank:{rank}")
        back = codec.decode(codec.encode(values, rng_of()), SHAPES)
        errors.append(float(np.linalg.norm(values["kernel"] - back["kernel"])))
    assert errors == sorted(errors, reverse=True)


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_positions_come_back(given_: tuple[int, set[int]]) -> None:
    size, chosen = given_
    positions = np.array(sorted(chosen), np.int64)
    content = indices.pack(positions, size)
    found, rest = indices.unpack(content + b"rest", size)
    assert found.tolist() == positions.tolist()
    assert rest == b"rest"
    assert len(content) <= indices.most_bytes(size)


def test_a_ternary_update_says_direction_of_the_largest_and_their_mean_magnitude() -> None:
    values = {"a": np.array([0.5, -5.0, 0.2, 3.0, -0.3], np.float32)}
    codec = named("ternary:0.4")
    back = codec.decode(codec.encode(values, rng_of()), {"a": (5,)})
    assert back["a"].tolist() == [0.0, -4.0, 0.0, 4.0, 0.0]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.04, 0.1, 0.3, 0.5, 0.9])
def test_positions_are_nearly_as_short_as_their_entropy(share: float) -> None:
    size, chosen = 100_000, np.random.default_rng(0).random(100_000) < share
    entropy = -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    content = indices.pack(np.flatnonzero(chosen), size)
    # A Rice code comes closest where few are kept; a bitmap is never longer than a bit a value.
    assert len(content) - indices.HEAD.size <= min(1.05 * entropy if share <= 0.3 else np.inf, size / 8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        indices.HEAD.pack(0, 1, 0),
        indices.HEAD.pack(0, 1, 1),
        indices.HEAD.pack(0, 1, 1) + b"\x00",
        indices.HEAD.pack(0, 1, 1) + b"\x81",
        indices.HEAD.pack(0, 1, 2) + b"\x80\x00",
        indices.HEAD.pack(0, 2, 1) + b"\x80",
        indices.HEAD.pack(7, 1, 1) + b"\xff",
        indices.HEAD.pack(7, 1, 2) + b"\xff\xff",
        indices.HEAD.pack(8, 1, 2) + b"\x00\x80",
        indices.HEAD.pack(0, 0, 14) + b"\x00" * 14,
        indices.HEAD.pack(0, 10**9, 1) + b"\x01",
        indices.HEAD.pack(indices.BITMAP, 1, 1) + b"\x80",
        indices.HEAD.pack(indices.BITMAP, 3, 13) + b"\xff" * 13,
    ],
)
def test_what_is_no_list_of_positions_is_refused(content: bytes) -> None:
    with pytest.raises(CompressionError):
        indices.unpack(content, 100)


@pytest.mark.parametrize(
    ("spec", "has", "expected"),
    [
        ("topk_int8:0.01+zstd", ["topk_int8"], "topk_int8:0.01+zstd"),
        ("topk_int8:0.01+zstd", ["none", "int8", "float16"], "int8+zstd"),
        ("sign", ["none", "float16"], "float16"),
        ("sign+zstd", [], "none"),
    ],
)
def test_who_lacks_a_codec_is_given_one_that_it_has(spec: str, has: list[str], expected: str) -> None:
    assert supported(spec, has) == expected


def test_the_automatic_choice_grows_stricter_as_links_grow_slower() -> None:
    found = [automatic(26_000, speed, 0.08, True) for speed in (1e8, 1.5e6, 1e4, None)]
    assert found == ["none", "int8+zstd", "ternary:0.08", "ternary:0.08"]
