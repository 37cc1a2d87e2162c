from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import encode as msgpack

from common.model.histogram import BUCKETS, RELATIVE_ERROR, HistogramError, ScoreHistogram

SCORES = st.lists(st.floats(0, 2.0**100, width=32), max_size=30).map(
    lambda scores: np.array(scores, np.float32)
)


@given(SCORES, st.integers(0, 30))
def test_parts_merged_are_exactly_the_whole(scores: np.ndarray, cut: int) -> None:
    whole = ScoreHistogram.of(scores)
    a, b = ScoreHistogram.of(scores[:cut]), ScoreHistogram.of(scores[cut:])
    assert a.merge(b).pack() == b.merge(a).pack() == whole.pack()
    assert whole.count == len(scores)


@given(SCORES.filter(len), st.floats(0, 1))
def test_a_quantile_is_within_its_relative_error(scores: np.ndarray, rank: float) -> None:
    true = float(np.sort(scores)[min(int(rank * len(scores) + 1e-9), len(scores) - 1)])
    tiny = float(np.finfo(np.float32).tiny)
    assert ScoreHistogram.of(scores).quantile(rank) == pytest.approx(true, rel=RELATIVE_ERROR, abs=tiny)


@given(SCORES.filter(len), st.integers(1, 40))
def test_a_capped_histogram_has_the_same_quantiles(scores: np.ndarray, count: int) -> None:
    whole = ScoreHistogram.of(scores)
    capped = whole.capped(count)
    assert capped.count == min(count, whole.count)
    step = 1 / capped.count
    for rank in np.arange(0.5 * step, 1, step):
        low, high = whole.quantile(max(rank - step, 0)), whole.quantile(min(rank + step, 1))
        assert low <= capped.quantile(float(rank)) <= high


def test_a_clipped_histogram_has_as_many_scores_none_of_them_larger() -> None:
    whole = ScoreHistogram.of(np.arange(1.0, 101.0))
    assert whole.clipped(200.0) is whole
    clipped = whole.clipped(50.0)
    assert (clipped.count, clipped.quantile(0.3)) == (100, whole.quantile(0.3))
    assert clipped.quantile(1.0) == pytest.approx(50.0, rel=RELATIVE_ERROR)
    assert whole.clipped(0.0).quantile(1.0) == 0.0


def test_merging_is_commutative_and_leaves_the_parts_alone() -> None:
    a, b = ScoreHistogram.of(np.arange(60.0)), ScoreHistogram.of(np.arange(60.0, 90.0))
    before = a.pack(), b.pack()
    assert [a.merge(b).quantile(q) for q in (0.1, 0.5, 0.99)] == [
        b.merge(a).quantile(q) for q in (0.1, 0.5, 0.99)
    ]
    assert (a.pack(), b.pack()) == before


@settings(deadline=None)
@given(st.integers(0, 20000))
def test_a_histogram_comes_back_and_packs_as_the_same_bytes(size: int) -> None:
    packed = ScoreHistogram.of(np.random.default_rng(0).lognormal(size=size)).pack()
    back = ScoreHistogram.unpack(packed)
    assert back.count == size
    if size:
        back.quantile(0.5)
    assert back.pack() == packed


def test_a_hundred_thousand_scores_fit_into_a_few_kilobytes() -> None:
    assert len(ScoreHistogram.of(np.random.default_rng(0).lognormal(size=100_000)).pack()) < 4_000


@pytest.mark.parametrize(("value", "problem"), [(np.inf, "infinite"), (1e39, "infinite"), (-1.0, "negative")])
def test_an_infinite_or_negative_score_is_refused(value: float, problem: str) -> None:
    with pytest.raises(HistogramError, match=problem):
        ScoreHistogram.of(np.array([1.0, value]))


def test_an_event_without_a_score_is_left_out() -> None:
    result = ScoreHistogram.of(np.array([np.nan, 1.0, np.nan, 2.0]))
    assert (result.count, result.quantile(0.0)) == (2, pytest.approx(1.0, rel=RELATIVE_ERROR))
    assert ScoreHistogram.of(np.full(3, np.nan)).count == 0


def test_an_empty_histogram_has_no_quantiles_and_no_distance() -> None:
    for call in (lambda h: h.quantile(0.5), lambda h: h.distance(ScoreHistogram.of(np.ones(1)))):
        with pytest.raises(HistogramError, match="empty"):
            call(ScoreHistogram.empty())


PACKED = [ScoreHistogram.of(np.arange(float(size))).pack() for size in (0, 1, 3, 5, 500, 5000)]


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(PACKED), st.data())
def test_damaged_bytes_are_refused_or_still_a_valid_histogram(packed: bytes, data: st.DataObject) -> None:
    content = bytearray(packed[: data.draw(st.integers(0, len(packed)))])
    last = max(0, len(content) - 1)
    for position in data.draw(st.lists(st.integers(0, min(64, last)) | st.integers(0, last), max_size=4)):
        if content:
            content[position] = data.draw(st.sampled_from([0, 1, 255]) | st.integers(0, 255))
    with suppress(HistogramError):
        result = ScoreHistogram.unpack(bytes(content))
        result = result.merge(result).merge(ScoreHistogram.of(np.arange(300.0)))
        assert np.isfinite(result.quantile(0.99))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (PACKED[5][:30], "truncated"),
        (PACKED[5] + b"more", "trailing"),
        (msgpack([[1], [2], [3]]), "length 2"),
        (msgpack([[1.5], [2]]), "Expected `int`"),
        (msgpack([[-1], [2]]), "Expected `int` >= 0"),
        (msgpack([[1], [0]]), "Expected `int` >= 1"),
        (msgpack([[1], [2**63]]), "Expected `int` <="),
        (msgpack([[1, 2], [2]]), "one count for each bucket"),
        (msgpack([[1, 0], [2, 2]]), "one count for each bucket"),
        (msgpack([[BUCKETS - 1, 1], [2, 2]]), "bucket"),
        (msgpack([[1] * 20, [10**17] * 20]), "it counts"),
        (msgpack([[1] * (BUCKETS + 1), [1] * (BUCKETS + 1)]), "length <="),
    ],
    ids=range(13),
)
def test_the_error_names_what_is_wrong_with_a_histogram(content: bytes, problem: str) -> None:
    with pytest.raises(HistogramError, match=problem):
        ScoreHistogram.unpack(content)
