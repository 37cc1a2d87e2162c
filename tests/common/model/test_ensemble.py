from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.ensemble import Ensemble
from common.model.residuals import Residuals
from common.model.sketch import ScoreSketch
from common.model.tail import ScoreTail

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.lognormal(0, 0.5, (2, 5000))
TAILS = ScoreTail.of(FIRST, ScoreSketch(), 1), ScoreTail.of(SECOND * 100, ScoreSketch(), 1)
LARGEST = float(np.finfo(np.float32).max)
SCORE = st.floats(0, LARGEST, width=32)


def ensemble(share: float) -> Ensemble:
    return Ensemble({}, Residuals(), share, TAILS)


@given(st.floats(0, 1), SCORE, SCORE)
def test_of_two_networks_each_has_its_share(share: float, first: float, second: float) -> None:
    expected = (1 - share) * TAILS[0].rarity(first) + share * TAILS[1].rarity(second)
    found = ensemble(share)
    assert found.score(first, second) == pytest.approx(expected, rel=1e-12)
    assert found.score(first, second) == sum(found.parts(first, second))
    together = found.scores(np.array([first], np.float32), np.array([second], np.float32))
    assert together.dtype == np.float32
    assert together[0] == pytest.approx(expected, rel=1e-6)
    assert 0 <= together[0] < LARGEST


@given(SCORE, SCORE)
def test_with_the_whole_share_one_network_decides_alone(first: float, second: float) -> None:
    assert ensemble(0.0).score(first, second) == TAILS[0].rarity(first)
    assert ensemble(1.0).score(first, second) == TAILS[1].rarity(second)


@given(st.floats(0.01, 0.99), SCORE, SCORE, st.floats(1.01, 1e3))
def test_it_rises_with_each_networks_score(share: float, first: float, second: float, by: float) -> None:
    found = ensemble(share)
    score = found.score(first, second)
    if 1e-3 < first < LARGEST / by:
        assert found.score(first * by, second) > score
    if 1e-3 < second < LARGEST / by:
        assert found.score(first, second * by) > score


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_score_is_at_most_e_times_as_frequent_as_it_says(share: float) -> None:
    found = ensemble(share)
    alike = found.scores(FIRST, FIRST * 100)
    apart = found.scores(FIRST, SECOND * 100)
    for score in (2.0, 4.0, 6.0):
        assert (alike >= score).mean() == pytest.approx(math.exp(-score), rel=0.35)
        assert (apart >= score).mean() <= math.e * math.exp(-score)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_of_a_whole(share: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ensemble(share)
