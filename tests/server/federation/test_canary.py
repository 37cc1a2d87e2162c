from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.scoring import version_scores
from server.federation.canary import MIN_SCORES, BlindVersionError, Canary
from tests.client.sample_versions import rows, version


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
    found = version_scores(blind, Scaler.of(blind.moments).apply(rows(4000, seed=9)))
    blind = replace(blind, scores=ScoreHistogram.of(found))
    with pytest.raises(BlindVersionError, match="of 'c'"):
        Canary().check(fleet_version(1), blind)


def test_versions_with_few_scores_are_not_compared() -> None:
    few = ScoreHistogram.of(np.full(MIN_SCORES - 1, 1e9))
    Canary().check(fleet_version(1), replace(fleet_version(2), scores=few))
    Canary().check(replace(fleet_version(1), scores=few), fleet_version(2))


def test_the_newest_versions_limits_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    canary, newest = Canary(), fleet_version(1)
    second = replace(newest, version=2)
    canary.check(newest, second)
    assert set(canary._limits) == {newest.hash, second.hash}
    monkeypatch.setattr("server.federation.canary.tail_quantile", lambda *_: None)
    canary.check(second, newest)
    assert set(canary._limits) == {newest.hash, second.hash}


def test_moments_that_are_renewed_by_little_do_not_cost_another_comparison() -> None:
    canary, newest = Canary(), fleet_version(1)
    second = replace(newest, version=2, moments=moved(newest, 0.01))
    canary.check(newest, second)
    limits = canary._limits[second.hash]
    canary.check(second, replace(second, version=3, moments=moved(second, 0.01)))
    assert canary._limits[second.hash] is limits
    canary.check(far := replace(second, version=4, moments=moved(second, 3.0)), replace(far, version=5))
    assert second.hash not in canary._limits


def moved(version: Manifest, spreads: float) -> Moments:
    """The version's moments with all means moved by a number of spreads."""
    moments = version.moments
    return structs.replace(moments, mean=moments.mean + spreads * moments.std)
