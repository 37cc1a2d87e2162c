from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.histogram import RELATIVE_ERROR, HistogramError, ScoreHistogram
from common.model.threshold import (
    MAX_FLEET_RATIO,
    robust_limit,
    starting_threshold,
    tail_quantile,
)
from common.robust import SMALLEST

LOGNORMAL = np.random.default_rng(0).lognormal(0, 0.5, 20_000)


@pytest.mark.parametrize("rate", [0.2, 0.01, 0.002])
def test_about_the_share_of_scores_exceeds_the_quantile(rate: float) -> None:
    limit = tail_quantile(ScoreHistogram.of(LOGNORMAL), rate)
    assert (limit < LOGNORMAL).mean() == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate", [1e-4, 1e-5, 1e-6])
def test_beyond_all_scores_the_threshold_is_of_the_right_size(rate: float) -> None:
    few = ScoreHistogram.of(LOGNORMAL[:500])
    true = float(np.exp(0.5 * statistics.NormalDist().inv_cdf(1 - rate)))
    assert 0.8 * true < tail_quantile(few, rate) < 6 * true
    assert tail_quantile(few, rate) > LOGNORMAL[:500].max() * 0.99


@pytest.mark.parametrize("seed", range(10))
def test_a_light_tail_is_not_mistaken_for_a_heavy_one(seed: int) -> None:
    few = ScoreHistogram.of(np.random.default_rng(seed).exponential(1, 160))
    assert 0.6 < tail_quantile(few, 1e-5) / -math.log(1e-5) < 4


@given(st.integers(1, 2000), st.floats(1e-8, 0.5), st.floats(1e-8, 0.5))
def test_a_smaller_rate_never_lowers_the_threshold(count: int, a: float, b: float) -> None:
    scores = ScoreHistogram.of(LOGNORMAL[:count])
    low, high = tail_quantile(scores, max(a, b)), tail_quantile(scores, min(a, b))
    assert low <= high * (1 + 1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-38, 3.5])
def test_equal_scores_give_their_value_or_the_smallest_threshold(value: float) -> None:
    scores = ScoreHistogram.of(np.full(100, value))
    for rate in (0.1, 1e-6):
        assert tail_quantile(scores, rate) == pytest.approx(max(value, SMALLEST), rel=RELATIVE_ERROR)


def test_without_scores_there_is_no_threshold() -> None:
    with pytest.raises(HistogramError):
        tail_quantile(ScoreHistogram.empty(), 0.1)
    with pytest.raises(HistogramError):
        starting_threshold(ScoreHistogram.empty(), ScoreHistogram.empty(), 0.1)


def test_without_own_scores_the_fleets_tail_is_the_threshold_up_to_three_times_its_largest_score() -> None:
    fleet = ScoreHistogram.of(LOGNORMAL)
    start, _, highest = starting_threshold(fleet, ScoreHistogram.empty(), 0.001)
    assert start == tail_quantile(fleet, 0.001)
    assert highest == pytest.approx(MAX_FLEET_RATIO * LOGNORMAL.max(), rel=RELATIVE_ERROR)
    heavy = ScoreHistogram.of(np.random.default_rng(1).pareto(1.1, 200))
    assert tail_quantile(heavy, 1e-6) > MAX_FLEET_RATIO * heavy.quantile(1.0)
    assert starting_threshold(heavy, ScoreHistogram.empty(), 1e-6)[0] == MAX_FLEET_RATIO * heavy.quantile(1.0)


@pytest.mark.parametrize("count", [200, 5000])
def test_own_scores_bound_a_threshold_from_a_heavy_tail(count: int) -> None:
    """Scores of 4 to 29 gave a threshold of 8,832: the tail was fitted to a few, and continued far beyond."""
    generator = np.random.default_rng(2)
    fleet = ScoreHistogram.of(4 + generator.pareto(0.9, 300))
    own = np.clip(4 + generator.pareto(1.5, count), 4, 29)
    assert tail_quantile(fleet, 1e-6) > 500
    start, lowest, highest = starting_threshold(fleet, ScoreHistogram.of(own), 1e-6)
    assert own.max() * 0.996 <= start == highest
    assert highest == pytest.approx(1.5 * own.max(), rel=RELATIVE_ERROR)
    assert lowest == pytest.approx(own.max(), rel=RELATIVE_ERROR)


@pytest.mark.parametrize("count", [15, 60, 120])
def test_few_own_scores_and_the_fleets_bound_a_threshold_together(count: int) -> None:
    generator = np.random.default_rng(2)
    fleet = ScoreHistogram.of(4 + generator.pareto(0.9, 300))
    own = ScoreHistogram.of(np.clip(4 + generator.pareto(1.5, count), 4, 29))
    alone, together = max(1.5, 1 + 60 / count) * own.quantile(1.0), MAX_FLEET_RATIO * fleet.quantile(0.99)
    start, _, highest = starting_threshold(fleet, own, 1e-6)
    assert alone < start == highest < together < tail_quantile(fleet, 1e-6)


def test_the_fleets_scores_never_lower_the_own_bound() -> None:
    """A machine whose normal scores are ten times the fleet's."""
    own = ScoreHistogram.of(10 * LOGNORMAL[:50])
    for fleet in (ScoreHistogram.empty(), ScoreHistogram.of(LOGNORMAL)):
        assert starting_threshold(fleet, own, 1e-4)[2] == max(1.5, 1 + 60 / 50) * own.quantile(1.0)


def test_a_threshold_is_not_below_the_clients_own_quantile() -> None:
    own = ScoreHistogram.of(10 * LOGNORMAL)
    start, lowest, _ = starting_threshold(ScoreHistogram.of(LOGNORMAL), own, 0.01)
    assert start == pytest.approx(float(np.quantile(10 * LOGNORMAL, 0.99)), rel=0.05)
    assert lowest == pytest.approx(float(np.quantile(10 * LOGNORMAL, 0.92)), rel=0.05)


def test_few_surprisals_have_a_threshold_of_at_least_what_the_rate_says() -> None:
    """Surprisals of rows that the detectors were fitted to are too small: thresholds were 0.2 to 2."""
    small = 0.2 * np.random.default_rng(5).exponential(size=300)
    few, enough = ScoreHistogram.of(small[:299]), ScoreHistogram.of(small)
    fleet, rate = ScoreHistogram.of(small[:10]), 1 / 300
    assert starting_threshold(fleet, few, rate, surprisals=True) == (math.log(300),) * 3
    assert starting_threshold(fleet, few, rate)[2] < 2
    assert starting_threshold(fleet, enough, rate, surprisals=True) == starting_threshold(fleet, enough, rate)
    large = ScoreHistogram.of(100 * small[:299])
    assert starting_threshold(large, large, rate, surprisals=True) == starting_threshold(large, large, rate)


def test_without_fleet_scores_the_own_tail_is_used() -> None:
    own = ScoreHistogram.of(LOGNORMAL[:50])
    start, _, highest = starting_threshold(ScoreHistogram.empty(), own, 1e-4)
    assert LOGNORMAL[:50].max() < start <= highest


def test_the_robust_limit_is_beyond_normal_scores_and_not_moved_by_a_tenth_of_faults() -> None:
    normal = LOGNORMAL[:900]
    limit = robust_limit(ScoreHistogram.of(normal))
    assert (normal > limit).mean() < 0.001
    with_faults = robust_limit(ScoreHistogram.of(np.concatenate([normal, np.full(100, 50.0)])))
    assert limit < with_faults < 2.5 * limit < 50
    assert robust_limit(ScoreHistogram.of(normal[:20])) == math.inf
