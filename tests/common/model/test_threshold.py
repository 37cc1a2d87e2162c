from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.sketch import ScoreSketch, SketchError
from common.model.threshold import (
    SMALLEST,
    ClientScores,
    blended_threshold,
    tail_quantile,
)

LOGNORMAL = np.random.default_rng(0).lognormal(0, 0.5, 20_000)


@pytest.mark.parametrize("rate", [0.2, 0.01, 0.002])
def test_about_the_share_of_scores_exceeds_the_quantile(rate: float) -> None:
    limit = tail_quantile(ScoreSketch.of(LOGNORMAL), rate)
    assert (limit < LOGNORMAL).mean() == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate", [1e-4, 1e-5, 1e-6])
def test_beyond_all_scores_the_threshold_is_of_the_right_size(rate: float) -> None:
    few = ScoreSketch.of(LOGNORMAL[:500])
    true = float(np.exp(0.5 * statistics.NormalDist().inv_cdf(1 - rate)))
    assert 0.8 * true < tail_quantile(few, rate) < 6 * true
    assert tail_quantile(few, rate) > LOGNORMAL[:500].max() * 0.99


@pytest.mark.parametrize("seed", range(10))
def test_a_light_tail_is_not_taken_for_a_heavy_one(seed: int) -> None:
    few = ScoreSketch.of(np.random.default_rng(seed).exponential(1, 160))
    assert 0.6 < tail_quantile(few, 1e-5) / -math.log(1e-5) < 4


@given(st.integers(1, 2000), st.floats(1e-8, 0.5), st.floats(1e-8, 0.5))
def test_a_smaller_rate_never_lowers_the_threshold(count: int, a: float, b: float) -> None:
    sketch = ScoreSketch.of(LOGNORMAL[:count])
    low, high = tail_quantile(sketch, max(a, b)), tail_quantile(sketch, min(a, b))
    assert low <= high * (1 + 1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-38, 3.5])
def test_equal_scores_give_their_value_or_the_smallest_threshold(value: float) -> None:
    sketch = ScoreSketch.of(np.full(100, value))
    for rate in (0.1, 1e-6):
        assert tail_quantile(sketch, rate) == pytest.approx(max(value, SMALLEST), rel=1e-5)


def test_without_scores_there_is_no_threshold() -> None:
    with pytest.raises(SketchError):
        tail_quantile(ScoreSketch(), 0.1)
    with pytest.raises(SketchError):
        blended_threshold(ScoreSketch(), ClientScores(), 0.1)


def test_without_own_scores_the_fleets_threshold_is_used() -> None:
    fleet = ScoreSketch.of(LOGNORMAL)
    assert blended_threshold(fleet, ClientScores(), 0.001) == tail_quantile(fleet, 0.001)


def test_more_own_scores_bring_the_threshold_nearer_to_theirs() -> None:
    fleet, rate = ScoreSketch.of(10 * LOGNORMAL), 0.01
    limits = [
        blended_threshold(fleet, ClientScores(ScoreSketch.of(LOGNORMAL[:n])), rate)
        for n in (10, 100, 1000, 20_000)
    ]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] == pytest.approx(tail_quantile(fleet, rate), rel=0.3)
    assert limits[-1] == pytest.approx(float(np.quantile(LOGNORMAL, 1 - rate)), rel=0.05)


def test_alerts_are_counted_against_the_budget() -> None:
    fleet, rate = ScoreSketch.of(LOGNORMAL), 0.01
    own = ScoreSketch.of(LOGNORMAL[:5000])
    none, some, all_ = (blended_threshold(fleet, ClientScores(own, alerts), rate) for alerts in (0, 25, 50))
    assert none < some < all_


def test_without_fleet_scores_the_own_scores_are_used() -> None:
    own, largest = ScoreSketch.of(LOGNORMAL[:50]), LOGNORMAL[:50].max()
    assert blended_threshold(ScoreSketch(), ClientScores(own), 1e-4) > largest
    assert blended_threshold(ScoreSketch(), ClientScores(own, alerts=3), 1e-4) == pytest.approx(
        largest, rel=1e-5
    )
