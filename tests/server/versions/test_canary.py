from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.scoring import score_windows, version_scores
from server.versions.canary import MAX_AGE, MIN_SCORES, BlindVersionError, Canary, _measured
from tests.client.sample_versions import rows, version, with_settings


def fleet_version(number: int, seed: int = 1) -> Manifest:
    return replace(version(number, window=4, seed=seed), personalised=False)


@pytest.mark.parametrize("seed", range(2, 8))
def test_versions_of_honest_clients_pass_one_after_the_other(seed: int) -> None:
    canary, newest = Canary(), fleet_version(1)
    for number in (2, 3):
        candidate = fleet_version(number, seed * number)
        canary.check(newest, candidate)
        newest = candidate


def test_scores_that_put_the_threshold_out_of_reach_are_blindness() -> None:
    blind = replace(fleet_version(2), scores=ScoreHistogram.of(np.full(1000, 1e9)))
    with pytest.raises(BlindVersionError, match="synthetic faults that version 1 finds"):
        Canary().check(fleet_version(1), blind)


def test_usual_errors_out_of_scale_are_blindness() -> None:
    blind = replace(fleet_version(2), residuals=Residuals(1, np.full(12, 1e9)))
    with pytest.raises(BlindVersionError):
        Canary().check(fleet_version(1), blind)


def test_a_network_that_returns_its_input_is_blind() -> None:
    wide = {"window": 4, "hidden": (12,), "activation": "linear"}
    newest = replace(version(1, model=wide), personalised=False)
    weights = {
        n: np.eye(12, dtype=np.float32) if n.endswith("kernel") else np.zeros(12, np.float32)
        for n in newest.weights
    }
    with pytest.raises(BlindVersionError):
        Canary().check(newest, replace(newest, version=2, weights=weights))


def test_a_feature_that_no_longer_counts_is_named() -> None:
    errors = np.tile([1.0, 1.0, 1e9], 4)
    blind = replace(fleet_version(2), residuals=Residuals(1, errors))
    result = version_scores(blind, Scaler.of(blind.moments).apply(rows(4000, seed=9)))
    blind = replace(blind, scores=ScoreHistogram.of(result))
    with pytest.raises(BlindVersionError, match="of 'c'"):
        Canary().check(fleet_version(1), blind)


def test_versions_with_few_scores_are_not_compared() -> None:
    few = ScoreHistogram.of(np.full(MIN_SCORES - 1, 1e9))
    Canary().check(fleet_version(1), replace(fleet_version(2), scores=few))
    Canary().check(replace(fleet_version(1), scores=few), fleet_version(2))


def scored(version: Manifest, factor: float) -> Manifest:
    """The version with scores, and so with a threshold, as many times as large as those of version 1."""
    version_1 = fleet_version(1)
    scores = version_scores(version_1, Scaler.of(version_1.moments).apply(rows(4000, seed=9)))
    return replace(version, scores=ScoreHistogram.of(factor * scores))


def test_detection_limits_are_measured_once_for_several_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    canary, newest, measured = Canary(), fleet_version(1), []
    monkeypatch.setattr(
        "server.versions.canary._measured", lambda m: measured.append(m.version) or _measured(m)
    )
    for number in range(2, 3 + MAX_AGE):
        candidate = replace(newest, version=number)
        canary.check(newest, candidate)
        newest = candidate
    assert measured == [1, 1 + MAX_AGE]
    canary.forget()
    canary.check(newest, newest)
    assert measured == [1, 1 + MAX_AGE, newest.version]


def test_a_loss_that_is_small_from_one_version_to_the_next_is_blindness() -> None:
    canary, newest = Canary(), fleet_version(1)
    with pytest.raises(BlindVersionError, match="that version 1 finds"):
        for step in 2.0 ** np.arange(1, MAX_AGE):
            candidate = scored(replace(newest, version=newest.version + 1), step)
            Canary().check(newest, candidate)
            canary.check(newest, candidate)
            newest = candidate
    assert 3 < newest.version < MAX_AGE


def test_moments_that_are_renewed_by_little_do_not_cost_another_measurement() -> None:
    canary, newest = Canary(), fleet_version(1)
    canary.check(newest, newest)
    first = canary._reference
    second = replace(newest, version=2, moments=moved(newest, 0.01))
    canary.check(second, second)
    assert canary._reference is first
    third = replace(second, version=3, moments=moved(newest, 3.0))
    canary.check(third, third)
    assert canary._reference is not first


def finer(version: Manifest, factor: float) -> Manifest:
    """The version with a scale that is finer by a factor, clipped at the same number, and its scores."""
    moments = structs.replace(version.moments, m2=version.moments.m2 / factor**2, step=np.zeros(0))
    made = with_settings(replace(version, moments=moments), scaling={"by": "fleet", "clip": 10.0})
    scaled = made.scaler.apply(rows(4000, seed=9))
    usual = score_windows(made.architecture, made.weights, scaled).residuals
    made = replace(made, residuals=usual)
    return replace(made, scores=ScoreHistogram.of(version_scores(made, scaled)))


def test_a_scale_so_fine_that_faults_are_clipped_is_blindness() -> None:
    newest = finer(fleet_version(1), 1.0)
    Canary().check(newest, finer(fleet_version(2), 1.1))
    with pytest.raises(BlindVersionError, match="that version 1 finds"):
        Canary().check(newest, finer(fleet_version(2), 6.0))


def moved(version: Manifest, spreads: float) -> Moments:
    """The version's moments with all means moved by a number of spreads."""
    moments = version.moments
    return structs.replace(moments, mean=moments.mean + spreads * moments.std)
