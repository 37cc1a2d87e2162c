from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from common.model.sketch import ScoreSketch
from common.model.tail import LIMITS, STEP, ScoreTail
from common.model.threshold import exceeded

LARGEST = float(np.finfo(np.float32).max)
SCORE = st.floats(0, LARGEST, width=32)
SCORES = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(0, 1e6, width=32) | SCORE)
LOGNORMAL = np.random.default_rng(0).lognormal(0, 0.5, 20_000)


@settings(deadline=None)
@given(SCORES, SCORES, st.integers(1, 1000), SCORE, SCORE)
def test_whatever_was_seen_a_higher_score_is_rarer(
    own: NDArray[np.float32], fleet: NDArray[np.float32], prior: int, a: float, b: float
) -> None:
    tail = ScoreTail.of(own, ScoreSketch.of(fleet), prior)
    low, high = sorted((a, b))
    assert 0 <= tail.rarity(low) <= tail.rarity(high) < 1e12
    if high > low * (1 + 1e-5) and high > 1e-30:
        assert tail.rarity(low) < tail.rarity(high)


@settings(deadline=None)
@given(SCORES, hnp.arrays(np.float32, st.integers(0, 20), elements=SCORE))
def test_many_are_as_rare_as_each_of_them(own: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    tail = ScoreTail.of(own, ScoreSketch(), 1)
    every = np.concatenate([found, own])
    np.testing.assert_allclose(tail.rarities(every), [tail.rarity(float(s)) for s in every], rtol=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.003])
def test_a_rarity_is_the_logarithm_of_how_seldom_a_score_is(share: float) -> None:
    tail = ScoreTail.of(LOGNORMAL[:10_000], ScoreSketch(), 1)
    rare = np.mean(tail.rarities(LOGNORMAL[10_000:]) > -math.log(share))
    assert rare == pytest.approx(share, rel=0.35)


def test_beyond_the_largest_score_seen_it_goes_on_rising() -> None:
    tail = ScoreTail.of(LOGNORMAL[:500], ScoreSketch(), 1)
    beyond = np.geomspace(LOGNORMAL[:500].max(), LARGEST, 2000)
    found = tail.rarities(beyond)
    assert found[0] < 12 < STEP * LIMITS < found[-1] < 1e6
    assert (np.diff(found) > 0).all()


def test_of_few_scores_it_is_the_fleets_and_of_many_the_clients() -> None:
    fleet = ScoreSketch.of(LOGNORMAL[:190] * 10)
    limit = exceeded(fleet, math.exp(-5))
    alone = ScoreTail.of(LOGNORMAL, ScoreSketch(), 1)
    assert ScoreTail.of(LOGNORMAL[:1], fleet, 10**9).rarity(limit) == pytest.approx(5, rel=1e-6)
    assert ScoreTail.of(LOGNORMAL, fleet, 1).rarity(2.0) == pytest.approx(alone.rarity(2.0), rel=1e-3)
    between = ScoreTail.of(LOGNORMAL, fleet, len(LOGNORMAL)).limits
    np.testing.assert_allclose(
        between, np.sqrt(alone.limits * ScoreTail.of(LOGNORMAL[:1], fleet, 10**9).limits), 1e-4
    )


@pytest.mark.parametrize("value", [0.0, 1.0, LARGEST])
def test_scores_that_are_all_alike_have_a_tail_too(value: float) -> None:
    tail = ScoreTail.of(np.full(50, value, np.float32), ScoreSketch(), 1)
    assert np.isfinite(tail.limits).all()
    assert 0 <= tail.rarity(0.0) < tail.rarity(value * 0.5 + 1e-20) < tail.rarity(LARGEST) < 1e12


@pytest.mark.parametrize(
    "limits",
    [
        np.arange(1.0, LIMITS),
        np.arange(0.0, LIMITS),
        np.arange(float(LIMITS), 0, -1),
        np.full(LIMITS, np.nan),
        np.append(np.arange(1.0, LIMITS), np.inf),
        np.arange(1, LIMITS + 1),
    ],
    ids=["few", "from 0", "falling", "NaN", "infinite", "integers"],
)
def test_what_does_not_rise_is_no_tail(limits: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="60 finite limits that rise from above 0"):
        ScoreTail(limits)
