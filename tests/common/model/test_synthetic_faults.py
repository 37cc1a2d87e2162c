from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.scoring import score_windows
from common.model.synthetic_faults import (
    KINDS,
    MAX_FEATURES,
    MAX_LIMIT_RATIO,
    SIZES,
    SyntheticFaults,
    lost_faults,
)
from tests.client.sample_versions import rows, version, with_settings


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
    return some.lost_by(new, threshold or usual_threshold(new), limits)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("seed", range(2, 8))
def test_versions_of_other_honest_weights_find_the_same_faults(window: int, seed: int) -> None:
    assert lost(version(1, window), version(2, window, seed=seed), window=window) is None


def test_a_network_that_returns_its_input_has_lost_all_faults() -> None:
    reason = lost(version(1), identity(), threshold=usual_threshold(version(1)))
    assert reason is not None and reason.endswith("synthetic faults") and " of " in reason


def test_a_threshold_out_of_reach_loses_all_faults() -> None:
    assert lost(version(1), version(1), threshold=1e9) is not None


def scaled_finer(manifest: Manifest, factor: float, clip: float | None) -> Manifest:
    """The version with spreads divided by a factor, and usual errors that fit it."""
    moments = manifest.moments
    finer = msgspec.structs.replace(moments, m2=moments.m2 / factor**2, step=np.zeros(0))
    made = with_settings(replace(manifest, moments=finer), scaling={"by": "fleet", "clip": clip})
    scaled = made.scaler.apply(rows(4000))
    return replace(made, residuals=score_windows(made.architecture, made.weights, scaled).residuals)


def test_a_scale_so_fine_that_faults_are_clipped_has_lost_them() -> None:
    current, some = scaled_finer(version(1), 1.0, 10.0), faults()
    for factor, clip, found in ((0.5, 10.0, True), (1.2, 10.0, True), (4.0, None, True), (4.0, 10.0, False)):
        new = scaled_finer(version(2), factor, clip)
        assert (some.clipped_by(new, 10.0, current, 10.0) is None) is found, (factor, clip)
        assert lost(current, new, 10.0) is None, "their size is not what hides them"


def test_a_version_near_its_limit_still_shows_what_the_next_one_hides() -> None:
    """Versions whose scale is finer each time would pass if only clear faults of one feature counted."""
    some, threshold = faults(), 10.0
    near = next(
        made
        for factor in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
        if (made := scaled_finer(version(1), factor, 10.0))
        and not some._detected(made, 2 * threshold, np.full((3, 4, 24), SIZES[-1]), clip=True).any()
    )
    assert "of all features" in str(
        some.clipped_by(scaled_finer(version(2), 8.0, 10.0), threshold, near, threshold)
    )
    assert some.clipped_by(near, threshold, near, threshold) is None


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
    few = np.ones((1, 1, 8), np.bool_)
    assert lost_faults(few, few, ["a"]) is None
    many = np.ones((1, 1, 32), np.bool_)
    assert lost_faults(many, many, ["a"]) == "32 of 32 synthetic faults"


@pytest.mark.parametrize("factor", [0.5, 2.0, 5.0, 8.0, 20.0])
def test_one_score_of_each_fault_tells_what_a_bisection_tells(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault is lost if the new version's own limit is more than `MAX_LIMIT_RATIO` times the current one."""
    some, current, new = faults(window=4), version(1, 4), version(2, 4, seed=3)
    limits = some.detection_limits(current, usual_threshold(current))
    threshold = factor * usual_threshold(new)
    beyond = np.array([SIZES[reach <= SIZES][0] for reach in some.reach])[:, np.newaxis, np.newaxis]
    wanted = np.maximum(limits * MAX_LIMIT_RATIO, beyond)
    counted = (limits > 0) & (wanted <= SIZES[-1])
    lost = counted & (some.detection_limits(new, threshold) > wanted * 1.01)
    assert counted.sum() > 0
    compared: list[NDArray[np.bool_]] = []
    monkeypatch.setattr(
        "common.model.synthetic_faults.lost_faults", lambda *arrays: compared.extend(arrays[:2])
    )
    some.lost_by(new, threshold, limits)
    np.testing.assert_array_equal(compared[0], counted)
    np.testing.assert_array_equal(compared[1], lost)


def test_values_that_were_normal_lately_are_no_faults() -> None:
    """A feature that was constant at first varies now: the new version need not find what it has seen."""
    windows, current, new = faults().windows, version(1), version(2)
    threshold = 30 * usual_threshold(new)
    far = windows[0] + 100 * faults().spread.astype(np.float32)
    for normal, finds in ((windows[0], False), (far, True)):
        some = SyntheticFaults.of(windows, seed=1, normal=normal)
        limits = some.detection_limits(current, usual_threshold(current))
        assert (some.lost_by(new, threshold, limits) is None) == finds


def test_changes_by_few_steps_are_no_faults() -> None:
    """A share of time is nearly always 0, and 0.01 now and then: the version before had met no step yet."""
    windows, current, new = faults().windows, version(1), version(2)
    threshold = 30 * usual_threshold(new)
    stepped = np.tile(np.nanmedian(windows.reshape(-1, windows.shape[2]), axis=0), (200, 1))
    stepped[::40] += 12 * faults().spread
    for normal, finds in ((windows[0], False), (stepped, True)):
        some = SyntheticFaults.of(windows, seed=1, normal=normal.astype(np.float32))
        limits = some.detection_limits(current, usual_threshold(current))
        assert (some.lost_by(new, threshold, limits) is None) == finds


def test_faults_of_many_features_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    some, current = faults(window=4), version(1, 4)
    limits = some.detection_limits(current, usual_threshold(current))
    monkeypatch.setattr("common.model.synthetic_faults.MAX_VALUES", 1)
    np.testing.assert_array_equal(some.detection_limits(current, usual_threshold(current)), limits)
