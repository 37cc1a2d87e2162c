from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from client.buffers.training_buffer import BufferedRows
from client.versions.drift import Drift
from client.versions.trial import MIN_WINDOWS, ThresholdRule, buffer_scores, rejection_reason, run_trial
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.residuals import Residuals
from common.model.scoring import score_windows, version_scores
from tests.client.sample_versions import rows, version, with_settings

NORMAL = np.full(500, 1.0, np.float32)


def of(result: np.ndarray, threshold: float = 10.0, live_scores: np.ndarray = NORMAL) -> str | None:
    return rejection_reason(result, threshold, 1, live_scores, 10.0)


def test_a_version_that_scores_as_before_is_accepted() -> None:
    assert of(NORMAL * 1.5) is None
    assert of(NORMAL * 0.01) is None


def test_a_version_with_a_much_larger_error_is_rejected() -> None:
    wrong = of(NORMAL * 3)
    assert wrong is not None and "3.0 times that of version 1" in wrong


def test_alerts_on_normal_events_reject_a_version_unless_the_current_one_raises_them_too() -> None:
    result = np.where(np.arange(500) < 25, 20.0, 0.5).astype(np.float32)
    assert "alerts on 5.0%" in str(of(result))
    assert of(result, live_scores=result) is None


def test_no_version_is_rejected_on_too_few_events() -> None:
    assert of(NORMAL[: MIN_WINDOWS - 1] * 100) is None
    assert of(NORMAL[:0]) is None


def test_a_first_version_is_tried_alone() -> None:
    assert of(NORMAL, 10.0, NORMAL[:0]) is None
    assert "alerts on 100.0%" in str(of(NORMAL, 0.5, NORMAL[:0]))


def normal_events(number: int) -> BufferedRows:
    return BufferedRows(rows(number), np.arange(number) == 0)


def test_a_trial_returns_the_scores_that_the_threshold_is_set_by() -> None:
    given = version(2)
    result = run_trial(given, normal_events(600), ThresholdRule(None, 1e-3), version(1), 10.0)
    own = buffer_scores(given, normal_events(600))
    assert (result.rejection, result.windows) == (None, 600)
    assert result.scores.count == 600
    assert result.scores.quantile(0.99) == pytest.approx(np.quantile(own, 0.99), rel=0.05)
    assert not Drift(1e-6, result.scores).drifted


def test_events_that_are_missing_as_a_whole_have_no_part_in_a_trial() -> None:
    events = normal_events(200)
    events.rows[3:5] = np.nan
    result = run_trial(version(1), events, ThresholdRule(1.0, 1))
    assert (result.rejection, result.windows) == (None, 198)


def test_a_trial_says_how_much_larger_the_new_scores_are() -> None:
    larger = replace(version(2), residuals=Residuals(1, np.full(3, 0.25)))
    result = run_trial(larger, normal_events(600), ThresholdRule(None, 1e-3), version(1), 10.0)
    assert result.scale == pytest.approx(4, rel=0.05)
    assert run_trial(version(1), normal_events(600), ThresholdRule(None, 1e-3)).scale is None


def test_a_first_version_is_not_refused_for_alerts_on_rows_that_no_version_has_scored() -> None:
    result = run_trial(version(1), normal_events(600), ThresholdRule(1e-9, 1e-3))
    assert result.rejection is None


def test_a_version_with_scores_that_are_not_finite_is_rejected() -> None:
    events = normal_events(200)
    events.rows[3:5] = np.inf
    assert "2 of 200 recent scores are not finite" in str(
        run_trial(version(1), events, ThresholdRule(1.0, 1)).rejection
    )


def test_events_without_a_value_are_left_out_of_a_trial() -> None:
    events = normal_events(200)
    events.rows[3:5] = np.nan
    events.rows[9, 1] = np.nan
    result = run_trial(version(1), events, ThresholdRule(100.0, 1))
    assert (result.rejection, result.windows) == (None, 198)


def test_a_version_without_any_score_is_rejected_unless_the_threshold_is_fixed() -> None:
    silent = replace(version(1), scores=ScoreHistogram.empty())
    assert run_trial(silent, normal_events(0), ThresholdRule(None, 1e-3)).rejection is not None
    assert run_trial(silent, normal_events(0), ThresholdRule(2.5, 1e-3)).rejection is None


@pytest.mark.parametrize("window", [1, 4])
def test_windows_across_a_break_are_not_scored(window: int) -> None:
    given, events = version(1, window=window), rows(50)
    breaks = np.zeros(50, np.bool_)
    breaks[[0, 20]] = True
    result = buffer_scores(given, BufferedRows(events, breaks))
    scaled = (events - given.moments.mean.astype(np.float32)) / np.sqrt(given.moments.variance).astype(
        np.float32
    )
    parts = [version_scores(given, scaled[a:b]) for a, b in ((0, 20), (20, 50))]
    np.testing.assert_allclose(result, np.concatenate(parts), rtol=1e-3)
    assert len(result) == 50 - 2 * (window - 1)


def test_a_worse_version_is_rejected_although_its_own_residuals_make_its_scores_small() -> None:
    live, worse, normal = version(1), version(2, scale=8.0), normal_events(500)
    scaled = Scaler.of(worse.moments).apply(normal.rows)
    errors = score_windows(worse.architecture, worse.weights, scaled).residuals
    weighed = replace(worse, residuals=errors)
    result = buffer_scores(weighed, normal)
    assert (
        result.mean() == pytest.approx(1, rel=0.1) and result.mean() < buffer_scores(live, normal).mean() * 2
    )
    live = replace(live, residuals=score_windows(live.architecture, live.weights, scaled).residuals)
    limit = ThresholdRule(value=1e9, rate=0.001)
    assert "times that of version 1" in str(run_trial(weighed, normal, limit, live, 1e9).rejection)
    assert run_trial(live, normal, limit, weighed, 1e9).rejection is None


def scaled(manifest: Manifest, factor: float) -> Manifest:
    """The version with a coarser scale, and usual errors that fit it."""
    moments = manifest.moments
    coarser = msgspec.structs.replace(moments, m2=moments.m2 * factor**2, step=np.zeros(0))
    made = with_settings(replace(manifest, moments=coarser), scaling={"by": "fleet", "clip": 10.0})
    errors = score_windows(made.architecture, made.weights, made.scaler.apply(rows(4000))).residuals
    return replace(made, residuals=errors)


def test_a_version_with_a_coarse_scale_does_not_keep_out_the_next_ones() -> None:
    rule, events = ThresholdRule(None, 1e-3), normal_events(600)
    coarse, honest = scaled(version(2), 10.0), scaled(version(3), 1.0)
    assert run_trial(honest, events, rule, coarse, 10.0, try_faults=True).rejection is None
    assert run_trial(coarse, events, rule, honest, 10.0).rejection is None
    worse = scaled(version(4, scale=8.0), 10.0)
    assert "times that of version 3" in str(run_trial(worse, events, rule, honest, 10.0).rejection)


def test_a_version_with_a_scale_so_fine_that_faults_are_clipped_is_refused() -> None:
    rule, events, honest = ThresholdRule(None, 1e-3), normal_events(600), scaled(version(1), 1.0)
    fine = scaled(version(2), 0.1)
    reason = run_trial(fine, events, rule, honest, 10.0, try_faults=True).rejection
    assert reason is not None and "synthetic faults of all features that version 1 finds" in reason


def tried(new: Manifest, fixed: float | None = None) -> str | None:
    current, rule = version(1), ThresholdRule(fixed, 1e-3)
    threshold = current.scores.quantile(1.0)
    return run_trial(new, normal_events(600), rule, current, threshold, try_faults=True).rejection


@pytest.mark.parametrize("seed", range(2, 6))
def test_an_honest_version_is_not_refused_for_blindness(seed: int) -> None:
    assert tried(version(2, seed=seed)) is None


def test_a_version_that_reproduces_every_input_is_refused() -> None:
    blind = version(2, model={"window": 1, "hidden": (3, 3), "activation": "linear"})
    weights = {
        n: np.eye(3, dtype=np.float32) if n.endswith("kernel") else np.zeros(3, np.float32)
        for n in blind.weights
    }
    reason = tried(replace(blind, weights=weights))
    assert reason is not None and "synthetic faults that version 1 finds" in reason


def test_a_version_whose_usual_errors_are_out_of_scale_is_refused_at_a_fixed_threshold() -> None:
    fixed = version(1).scores.quantile(1.0)
    assert tried(version(2), fixed) is None
    reason = tried(replace(version(2), residuals=Residuals(1, np.full(3, 1e9))), fixed)
    assert reason is not None and "synthetic faults" in reason


def test_a_version_that_ignores_one_feature_is_refused_and_the_feature_is_named() -> None:
    reason = tried(replace(version(2), residuals=Residuals(1, np.array([1.0, 1.0, 1e9]))))
    assert reason is not None and "synthetic faults of 'c' that version 1 finds" in reason


def test_few_normal_events_are_no_evidence_of_blindness() -> None:
    blind = replace(version(2), residuals=Residuals(1, np.array([1.0, 1.0, 1e9])))
    rule, few = ThresholdRule(None, 1e-3), normal_events(MIN_WINDOWS - 1)
    assert run_trial(blind, few, rule, version(1), 1.0, try_faults=True).rejection is None
