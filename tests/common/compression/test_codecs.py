"""Single codecs: the bytes that each saves, and the shapes that it accepts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression import positions
from common.compression.choice import automatic_spec, find_codec, seeded_rng, supported_spec
from common.compression.codec import CompressionError
from common.model.weights import Weights

SHAPES = {"kernel": (200, 64), "bias": (64,)}


def drawn() -> Weights:
    own = np.random.default_rng(3)
    return {n: own.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


@pytest.mark.parametrize(
    ("spec", "at_most"),
    [("int8", 0.251), ("topk:0.01", 0.014), ("ternary:0.1", 0.0185)],
)
def test_bytes_are_a_share_of_float32(spec: str, at_most: float) -> None:
    size = 4 * sum(a.size for a in drawn().values())
    assert len(find_codec(spec).encode(drawn(), seeded_rng())) <= at_most * size


def test_topk_keeps_the_largest_exactly_and_nothing_else() -> None:
    values = {"a": np.array([0.1, -5.0, 0.2, 3.0, -0.3], np.float32)}
    codec = find_codec("topk:0.4")
    back = codec.decode(codec.encode(values, seeded_rng()), {"a": (5,)})
    assert back["a"].tolist() == [0.0, -5.0, 0.0, 3.0, 0.0]


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_positions_come_back(given_: tuple[int, set[int]]) -> None:
    size, chosen = given_
    kept = np.array(sorted(chosen), np.int64)
    content = positions.pack(kept, size)
    unpacked, rest = positions.unpack(content + b"rest", size)
    assert unpacked.tolist() == kept.tolist()
    assert rest == b"rest"
    assert len(content) <= positions.max_bytes(size)


def test_a_ternary_update_says_direction_of_the_largest_and_their_mean_magnitude() -> None:
    values = {"a": np.array([0.5, -5.0, 0.2, 3.0, -0.3], np.float32)}
    codec = find_codec("ternary:0.4")
    back = codec.decode(codec.encode(values, seeded_rng()), {"a": (5,)})
    assert back["a"].tolist() == [0.0, -4.0, 0.0, 4.0, 0.0]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.04, 0.1, 0.3, 0.5, 0.9])
def test_positions_are_nearly_as_short_as_their_entropy(share: float) -> None:
    size, chosen = 100_000, np.random.default_rng(0).random(100_000) < share
    entropy = -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    content = positions.pack(np.flatnonzero(chosen), size)
    # A Rice code comes closest where few are kept; a bitmap is never longer than a bit a value.
    assert len(content) - positions.HEADER.size <= min(1.05 * entropy if share <= 0.3 else np.inf, size / 8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        positions.HEADER.pack(0, 1, 0),
        positions.HEADER.pack(0, 1, 1),
        positions.HEADER.pack(0, 1, 1) + b"\x00",
        positions.HEADER.pack(0, 1, 1) + b"\x81",
        positions.HEADER.pack(0, 1, 2) + b"\x80\x00",
        positions.HEADER.pack(0, 2, 1) + b"\x80",
        positions.HEADER.pack(7, 1, 1) + b"\xff",
        positions.HEADER.pack(7, 1, 2) + b"\xff\xff",
        positions.HEADER.pack(8, 1, 2) + b"\x00\x80",
        positions.HEADER.pack(0, 0, 14) + b"\x00" * 14,
        positions.HEADER.pack(0, 10**9, 1) + b"\x01",
        positions.HEADER.pack(positions.BITMAP, 1, 1) + b"\x80",
        positions.HEADER.pack(positions.BITMAP, 3, 13) + b"\xff" * 13,
    ],
)
def test_content_that_is_not_a_list_of_positions_is_refused(content: bytes) -> None:
    with pytest.raises(CompressionError):
        positions.unpack(content, 100)


@pytest.mark.parametrize(
    ("spec", "has", "expected"),
    [
        ("topk:0.01+zstd", ["topk"], "topk:0.01+zstd"),
        ("topk:0.01+zstd", ["none", "int8"], "int8+zstd"),
        ("ternary:0.1", ["none", "int8"], "int8"),
        ("ternary:0.1", ["none"], "none"),
        ("int8+zstd", [], "none"),
    ],
)
def test_who_lacks_a_codec_is_given_one_that_it_has(spec: str, has: list[str], expected: str) -> None:
    assert supported_spec(spec, has) == expected


def test_the_automatic_choice_grows_stricter_as_links_grow_slower() -> None:
    result = [automatic_spec(26_000, speed, 0.08, True) for speed in (1e8, 1.5e6, 1e4, None)]
    assert result == ["none", "int8+zstd", "ternary:0.08", "ternary:0.08"]
