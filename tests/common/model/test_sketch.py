from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.sketch import ScoreSketch, SketchError

SIZES = st.lists(st.integers(0, 5000), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 99))
def test_merged_parts_have_the_tail_of_the_whole(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.lognormal(i, 1, size).astype(np.float32) for i, size in enumerate(sizes)]
    whole = np.concatenate(parts)
    merged = ScoreSketch.merge_all(ScoreSketch.of(part) for part in parts)
    assert merged.count == len(whole)
    for above in (1, 10, 100):
        if above <= len(whole):
            found = merged.quantile(1 - above / len(whole))
            # Of `above` scores in the tail, at most a twentieth is misplaced, or two of a short one.
            assert abs(int((whole > found).sum()) - above) <= max(2, 0.05 * above)


def test_merging_is_commutative_and_leaves_the_parts_alone() -> None:
    a, b = ScoreSketch.of(np.arange(60.0)), ScoreSketch.of(np.arange(60.0, 90.0))
    before = a.pack(), b.pack()
    assert [a.merge(b).quantile(q) for q in (0.1, 0.5, 0.99)] == [
        b.merge(a).quantile(q) for q in (0.1, 0.5, 0.99)
    ]
    assert (a.pack(), b.pack()) == before


@settings(deadline=None)
@given(st.integers(0, 20000))
def test_a_sketch_comes_back_and_packs_as_the_same_bytes(size: int) -> None:
    packed = ScoreSketch.of(np.random.default_rng(0).lognormal(size=size)).pack()
    back = ScoreSketch.unpack(packed)
    assert back.count == size
    if size:
        back.quantile(0.5)
    assert back.pack() == packed


def test_a_hundred_thousand_scores_fit_into_a_few_kilobytes() -> None:
    assert len(ScoreSketch.of(np.random.default_rng(0).lognormal(size=100_000)).pack()) < 20_000


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_score_is_refused(value: float) -> None:
    with pytest.raises(SketchError, match="infinite"):
        ScoreSketch.of(np.array([1.0, value]))


def test_an_event_without_a_score_is_left_out() -> None:
    sketch = ScoreSketch.of(np.array([np.nan, 1.0, np.nan, 2.0]))
    assert (sketch.count, sketch.quantile(1.0)) == (2, 2.0)
    assert ScoreSketch.of(np.full(3, np.nan)).count == 0


def test_an_empty_sketch_has_no_quantiles() -> None:
    with pytest.raises(SketchError, match="empty"):
        ScoreSketch().quantile(0.5)


PACKED = [ScoreSketch.of(np.arange(float(size))).pack() for size in (0, 1, 3, 5, 500, 5000)]


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(PACKED), st.data())
def test_damaged_bytes_are_refused_or_still_a_valid_sketch(packed: bytes, data: st.DataObject) -> None:
    content = bytearray(packed[: data.draw(st.integers(0, len(packed)))])
    last = max(0, len(content) - 1)
    for position in data.draw(st.lists(st.integers(0, min(64, last)) | st.integers(0, last), max_size=4)):
        if content:
            content[position] = data.draw(st.sampled_from([0, 1, 255]) | st.integers(0, 255))
    with suppress(SketchError):
        found = ScoreSketch.unpack(bytes(content))
        found = found.merge(found)
        found.add(np.arange(300.0))
        assert np.isfinite(found.quantile(0.99))


def damaged(packed: bytes, position: int, content: bytes) -> bytes:
    return packed[:position] + content + packed[position + len(content) :]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (PACKED[5][:30], "truncated"),
        (damaged(PACKED[5], 2, b"\x0f"), "not a REQ sketch"),
        (damaged(PACKED[5], 4, b"\x40"), "not a REQ sketch"),
        (damaged(PACKED[5], 6, b"\x00"), "0 levels"),
        (PACKED[0] + b"more", "is empty, but"),
        (damaged(PACKED[2], 7, b"\x05"), "5 raw scores"),
        (PACKED[2][:14], "bytes for 3 raw scores"),
        (damaged(PACKED[1], 8, np.float32(np.nan).tobytes()), "not finite"),
        (damaged(PACKED[5], 8, b"\x89\x13"), "claims 5001 scores, but holds 5000"),
        (damaged(PACKED[5], 20, np.float32(9).tobytes()), "outside its own limits"),
        (damaged(PACKED[5], 24, b"\xff" * 8), "invalid level"),
        (damaged(PACKED[5], 32, np.float32(0).tobytes()), "invalid level"),
        (damaged(PACKED[3], 24, b"\xff\xff\xff"), "claims 16777215 scores on level 0"),
        (PACKED[5] + b"more", "4 extra bytes"),
    ],
    ids=range(15),
)
def test_the_error_names_what_is_wrong_with_a_sketch(content: bytes, problem: str) -> None:
    with pytest.raises(SketchError, match=problem):
        ScoreSketch.unpack(content)
