from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.detection.adaptive_threshold import AdaptiveThreshold
from client.maintenance.next_threshold import LEVEL, extended_threshold, next_threshold, regime_scale
from client.versions.trial import ThresholdRule
from common.model.histogram import HistogramError, ScoreHistogram
from tests.client.sample_versions import version

RULE = ThresholdRule(None, 1e-3)
SCORES = np.random.default_rng(0).lognormal(0, 0.5, 5000)
FLEET, OWN = replace(version(), scores=ScoreHistogram.of(SCORES)), ScoreHistogram.of(SCORES[:500])
EMPTY = replace(version(), scores=ScoreHistogram.empty())
START, LOWEST, HIGHEST = RULE.start(FLEET, OWN)


@pytest.mark.parametrize(("before", "scale"), [(None, None), (None, 2.0), (AdaptiveThreshold(5.0), None)])
def test_without_a_threshold_to_continue_from_a_version_has_its_first_one(
    before: AdaptiveThreshold | None, scale: float | None
) -> None:
    after = next_threshold(before, scale, RULE, FLEET, OWN)
    assert (after.value, after.bounds, after.rate) == (START, (LOWEST, HIGHEST), RULE.rate)


@given(st.floats(0.01, 100), st.floats(0.1, 10))
def test_it_continues_under_another_version_within_the_bounds_of_its_scores(
    value: float, scale: float
) -> None:
    after = next_threshold(AdaptiveThreshold(value, (0.0, math.inf)), scale, RULE, FLEET, OWN)
    assert after.value == min(max(value * scale, LOWEST), HIGHEST)
    assert (after.bounds, after.rate) == ((LOWEST, HIGHEST), RULE.rate)


def test_what_incidents_have_raised_is_not_lowered_by_a_few_scores_of_rows_that_the_version_knows() -> None:
    """Twelve replayed machines had up to six false notices on their first day, when versions come often."""
    few, enough = ScoreHistogram.of(SCORES[:100]), OWN
    for own, is_kept in ((few, True), (enough, False)):
        rule = ThresholdRule(None, 1 / 100)
        _, lowest, highest = rule.start(FLEET, own)
        before = AdaptiveThreshold(highest, (lowest, highest), rule.rate)
        before.incident_started("heat")
        after = next_threshold(before, 1.0, rule, FLEET, own)
        assert after.value == (before.value if is_kept else highest)
        assert after.raised == is_kept
        assert next_threshold(before, 100.0, rule, FLEET, own).value == (4 if is_kept else 1) * highest


def test_more_events_raise_it_to_where_it_would_begin_and_never_lower_it() -> None:
    assert extended_threshold(AdaptiveThreshold(0.1), RULE, FLEET, OWN).value == START
    higher = extended_threshold(AdaptiveThreshold(2 * START), RULE, FLEET, OWN)
    assert (higher.value, higher.bounds) == (2 * START, (LOWEST, HIGHEST))


def test_a_fixed_threshold_stays() -> None:
    rule, before = ThresholdRule(2.5, 1e-3), AdaptiveThreshold(2.5, fixed=True)
    for after in (
        next_threshold(before, 10.0, rule, FLEET, OWN),
        next_threshold(None, None, rule, EMPTY, ScoreHistogram.empty()),
        extended_threshold(before, rule, FLEET, OWN),
    ):
        assert (after.value, after.fixed) == (2.5, True)


def test_without_any_score_there_is_no_threshold() -> None:
    with pytest.raises(HistogramError):
        next_threshold(None, None, RULE, EMPTY, ScoreHistogram.empty())


def test_the_scale_of_a_changed_regime_is_the_ratio_of_the_scores() -> None:
    assert regime_scale(OWN, ScoreHistogram.of(3 * SCORES[:500])) == pytest.approx(3.0, rel=0.02)
    assert regime_scale(ScoreHistogram.empty(), OWN) is None
    assert OWN.quantile(LEVEL) > 0 and regime_scale(OWN, ScoreHistogram.of(np.zeros(100))) == 1.0
