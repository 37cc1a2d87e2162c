from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.synthetic_faults import KINDS, MAX_FEATURES, SIZES, SyntheticFaults, lost_faults
from tests.client.sample_versions import SCHEMA, rows, version


def faults(window: int = 1, windows: int = 24) -> SyntheticFaults:
    return SyntheticFaults.of(rows(windows * window).reshape(windows, window, 3), seed=1)


def usual_threshold(manifest: Manifest) -> float:
    return manifest.scores.quantile(1.0)


def identity() -> Manifest:
    """A version whose network returns its input: nothing has an error."""
    made = version(2, model={"window": 1, "hidden": (3, 3), "activation": "linear"})
    weights = {
        n: np.eye(3, dtype=np.float32) if n.endswith("kernel") else np.zeros(3, np.float32)
        for n in made.weights
    }
    return replace(made, weights=weights)


def lost(current: Manifest, new: Manifest, threshold: float | None = None, window: int = 1) -> str | None:
    some = faults(window)
    limits = some.detection_limits(current, usual_threshold(current))
    return lost_faults(limits, some.detection_limits(new, threshold or usual_threshold(new)), SCHEMA.features)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("seed", range(2, 8))
def test_versions_of_other_honest_weights_find_the_same_faults(window: int, seed: int) -> None:
    assert lost(version(1, window), version(2, window, seed=seed), window=window) is None


def test_a_network_that_returns_its_input_has_lost_all_faults() -> None:
    reason = lost(version(1), identity(), threshold=usual_threshold(version(1)))
    assert reason is not None and reason.endswith("synthetic faults") and " of " in reason


def test_a_threshold_out_of_reach_loses_all_faults() -> None:
    assert lost(version(1), version(1), threshold=1e9) is not None


def test_a_feature_that_does_not_count_in_the_score_is_named() -> None:
    blind = version(2)
    errors = np.array([1.0, 1.0, 1e7])
    blind = replace(blind, residuals=Residuals(1, errors))
    reason = lost(version(1), blind, threshold=usual_threshold(version(1)) * float(blind.precision[0]))
    assert reason is not None and reason.endswith("synthetic faults of 'c'")


def test_limits_are_zero_for_what_is_found_without_a_fault_and_not_known_where_a_value_is_missing() -> None:
    some = faults()
    some.windows[0, 0, 0] = np.nan
    limits = some.detection_limits(version(1), usual_threshold(version(1)))
    assert limits.shape == (3, len(KINDS), 24)
    assert np.isnan(limits[0, :, 0]).all() and not np.isnan(limits[1]).any()
    assert set(np.unique(limits[1])) <= {0.0, *SIZES, np.inf}
    assert (some.detection_limits(version(1), -1.0)[1] == 0).all()


def test_features_that_do_not_vary_get_no_faults_and_many_features_are_drawn_from() -> None:
    windows: NDArray[np.float32] = np.zeros((8, 2, 3), np.float32)
    windows[:, :, 1] = np.arange(16).reshape(8, 2)
    windows[:, :, 2] = np.nan
    assert SyntheticFaults.of(windows, seed=0).features == (1,)
    many = np.random.default_rng(0).standard_normal((8, 2, 200)).astype(np.float32)
    assert len(SyntheticFaults.of(many, seed=0).features) == MAX_FEATURES
    assert SyntheticFaults.of(many, seed=0).features != SyntheticFaults.of(many, seed=1).features


def test_few_lost_faults_are_no_evidence() -> None:
    current = np.full((1, 1, 8), 2.0)
    assert lost_faults(current, np.full((1, 1, 8), np.inf), ["a"]) is None
    current = np.full((1, 1, 32), 2.0)
    assert lost_faults(current, np.full((1, 1, 32), np.inf), ["a"]) == "32 of 32 synthetic faults"
