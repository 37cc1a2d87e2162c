from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.detectors.tail import KNOTS, CalibratedTail

RNG = np.random.default_rng(0)
SCORES = st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=300)


def test_surprisals_of_normal_scores_are_exponential_for_any_distribution() -> None:
    scores = np.exp(RNG.standard_normal(20_000)).astype(np.float32)
    result = CalibratedTail.of(scores[:10_000]).surprisals(scores[10_000:])
    assert np.quantile(result, (0.5, 0.9, 0.99)).tolist() == pytest.approx(np.log([2, 10, 100]), rel=0.1)


@given(SCORES)
def test_a_higher_score_never_has_a_lower_surprisal(scores: list[float]) -> None:
    tail = CalibratedTail.of(np.array(scores, np.float32))
    result = tail.surprisals(np.sort(np.array([0, *scores, 2e6], np.float32)))
    assert np.isfinite(result).all() and (np.diff(result) >= -1e-5).all()


@given(SCORES, st.floats(0, 2e6, width=32))
def test_one_score_has_the_surprisal_that_it_has_among_many(scores: list[float], score: float) -> None:
    tail = CalibratedTail.of(np.array(scores, np.float32))
    among = float(tail.surprisals(np.array([score], np.float32))[0])
    assert tail.surprisal(score) == pytest.approx(among, rel=1e-3, abs=1e-4)


@given(SCORES)
def test_a_packed_tail_is_the_same(scores: list[float]) -> None:
    tail = CalibratedTail.of(np.array(scores, np.float32))
    again = CalibratedTail.unpacked(tail.packed())
    at = np.linspace(0, 1e6, 50, dtype=np.float32)
    np.testing.assert_allclose(again.surprisals(at), tail.surprisals(at), rtol=1e-5)


def test_the_surprisal_of_no_score_is_none() -> None:
    tail = CalibratedTail.of(np.arange(9, dtype=np.float32))
    assert np.isnan(tail.surprisal(float("nan")))
    assert np.isnan(tail.surprisals(np.array([np.nan], np.float32))).all()


def test_scores_that_hardly_differ_do_not_make_a_rounding_error_surprising() -> None:
    assert CalibratedTail.of(np.full(40, 1.0, np.float32)).surprisal(1.001) < 3


@pytest.mark.parametrize("array", [
    np.zeros((3, 4)), np.zeros((2, 1)), np.zeros((2, KNOTS + 2)), np.array([[1, 0, 1], [0, 1, 0]]),
    np.array([[0, 1, 1], [1, 0, 0]]), np.array([[0, 1, 0], [0, 1, 0]]), np.array([[0, np.inf, 1], [0, 1, 0]]),
])  # fmt: skip
def test_what_is_no_tail_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the tail of a detector"):
        CalibratedTail.unpacked(array.astype(np.float32))


def test_a_tail_needs_two_scores() -> None:
    with pytest.raises(ValueError, match="1 finite scores"):
        CalibratedTail.of(np.array([1, np.nan], np.float32))
