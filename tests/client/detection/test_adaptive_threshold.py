from __future__ import annotations

import math

import numpy as np
import pytest

from client.detection.adaptive_threshold import (
    CAUSE_RISE,
    MAX_CAUSE_RISE,
    MAX_RISE,
    RISE,
    AdaptiveThreshold,
)

BOUNDS = (0.5, 20.0)


def test_at_the_rate_of_the_budget_the_threshold_stays() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    for _ in range(5):
        threshold.incident_started("heat")
        threshold.quiet(100)
    assert threshold.value == pytest.approx(2.0)


def test_incidents_raise_it_and_quiet_lowers_it_within_the_bounds() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    threshold.incident_started("heat")
    assert threshold.value == pytest.approx(2.0 * math.exp(RISE))
    for _ in range(100):
        threshold.incident_started("heat")
    assert threshold.value == MAX_RISE * BOUNDS[1]
    threshold.quiet(10**6)
    assert threshold.value == BOUNDS[0]


def test_with_little_evidence_the_first_incidents_raise_it_more() -> None:
    young = AdaptiveThreshold(2.0, BOUNDS, rate=0.01, covered=0.5)
    old = AdaptiveThreshold(2.0, BOUNDS, rate=0.01, covered=50)
    for threshold in (young, old):
        threshold.incident_started("heat")
    assert young.value == pytest.approx(2.0 * math.exp(3 * RISE))
    assert old.value == pytest.approx(2.0 * math.exp(RISE))
    young.quiet(100)
    assert young.value == pytest.approx(2.0)  # the budget's rate keeps it where it is, too


def test_it_rises_further_for_the_feature_that_leads_the_incidents() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    threshold.incident_started("heat")
    assert threshold.of_cause("disk") == threshold.value
    assert threshold.of_cause("heat") == pytest.approx(threshold.value * math.exp(CAUSE_RISE))
    for _ in range(100):
        threshold.incident_started("heat")
    assert threshold.of_cause("heat") == pytest.approx(threshold.value * math.exp(MAX_CAUSE_RISE))
    threshold.quiet(10**6)
    assert threshold.of_cause("heat") == threshold.value


def test_a_clear_incident_takes_back_most_of_its_rise_and_a_faint_one_little() -> None:
    raised = []
    for peak in (1.05, 20.0):
        threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
        threshold.incident_started("heat")
        threshold.incident_ended("heat", peak)
        raised.append((threshold.value / 2.0, threshold.of_cause("heat") / threshold.value))
    (faint, faint_cause), (clear, clear_cause) = raised
    assert 1 < clear < 1 + 0.2 * (faint - 1)
    assert 1 < clear_cause < 1 + 0.3 * (faint_cause - 1)
    assert faint > math.exp(0.9 * RISE)


def test_many_clear_incidents_raise_it_all_the_same() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    for number in range(12):
        threshold.incident_started(f"f{number}")
        threshold.incident_ended(f"f{number}", 20.0)
    assert threshold.value > 2.0 * math.exp(6 * RISE)


def test_until_incidents_raise_it_the_evidence_bounds_it_at_once() -> None:
    threshold = AdaptiveThreshold(8.0, BOUNDS, rate=0.01)
    threshold.bounds = (0.5, 4.0)
    threshold.quiet(1)
    assert threshold.value == 4.0


def test_bounds_never_raise_it() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    threshold.bounds = (3.0, 9.0)
    threshold.quiet(100)
    assert threshold.value == 2.0


def test_a_feature_that_leads_many_incidents_does_so_under_another_version() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01)
    threshold.incident_started("heat")
    later = AdaptiveThreshold(threshold.value, BOUNDS, rate=0.01).inherit(threshold, raised=True)
    assert later.of_cause("heat") == pytest.approx(threshold.of_cause("heat"))


@pytest.mark.parametrize("raised", [True, False])
def test_a_rise_under_another_version_is_kept_or_ends_at_the_bound(raised: bool) -> None:
    later = AdaptiveThreshold(8.0, (0.5, 4.0), rate=0.001).inherit(AdaptiveThreshold(8.0), raised)
    later.quiet(1)
    assert later.value == (pytest.approx(8.0, rel=1e-3) if raised else 4.0)


def test_a_fixed_threshold_never_changes() -> None:
    threshold = AdaptiveThreshold(2.0, BOUNDS, rate=0.01, fixed=True)
    threshold.incident_started("heat")
    threshold.quiet(1000)
    assert threshold.value == 2.0


@pytest.mark.parametrize("growth", [1.0, 1.5, 0.5])
def test_the_budget_holds_in_the_long_run_when_normal_scores_change_permanently(growth: float) -> None:
    """Ninety days of a score a minute whose level drifts, and has a lasting change after thirty days."""
    minutes = 90 * 1440
    generator = np.random.default_rng(4)
    level = np.exp(0.3 * np.sin(np.arange(minutes) / 5000)) * np.where(
        np.arange(minutes) < 43200, 1.0, growth
    )
    scores = level * generator.gamma(4.0, 0.25, minutes)
    threshold = AdaptiveThreshold(2.0, (0.1, 10.0), rate=1 / 1440)
    incidents, quiet_until = np.zeros(90), 0
    for minute, score in enumerate(scores):
        if score > threshold.of_cause("heat"):
            if minute >= quiet_until:
                incidents[minute // 1440] += 1
                threshold.incident_started("heat")
            quiet_until = minute + 4
        else:
            threshold.quiet(1)
    assert 0.5 < incidents[5:30].mean() < 1.5
    assert 0.5 < incidents[35:].mean() < 1.5
    assert incidents[30:35].sum() <= 10


def test_there_is_no_doubt_once_the_scores_cover_one_allowed_incident() -> None:
    doubts = [AdaptiveThreshold(2.0, covered=covered).doubt for covered in (0, 0.01, 0.1, 1, 100)]
    assert doubts == pytest.approx([1, 1, 0.5, 0, 0])
    assert AdaptiveThreshold(2.0, fixed=True).doubt == 0
