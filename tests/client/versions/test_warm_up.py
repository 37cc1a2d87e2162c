from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.buffers.training_buffer import BufferedRows
from client.versions.trial import buffer_scores
from client.versions.warm_up import MIN_ROWS, first_estimate_rows, robust_moments, warm_up
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from tests.client.sample_versions import rows, version

WINDOW = 4
SPREAD = np.array([1, 10, 0.1])
OTHER_MEAN = np.array([40.0, -900.0, 3.0])
"""Distance of the machine's mean from the fleet's."""


def fleet_version(window: int = WINDOW, by: str = "shared", prior: int = 1000) -> Manifest:
    made = version(window=window, scaling={"by": by, "clip": 10.0}, scoring={"prior": prior})
    return replace(made, residuals=Residuals.of(np.ones((500, 3 * window))), personalised=False)


def events(values: NDArray[np.floating]) -> BufferedRows:
    breaks = np.zeros(len(values), np.bool_)
    breaks[:1] = True
    return BufferedRows(values.astype(np.float32), breaks)


def own_rows(count: int, seed: int = 5) -> NDArray[np.float32]:
    return rows(count, seed) + OTHER_MEAN.astype(np.float32)


def test_a_version_gets_the_machines_mean_and_keeps_the_fleets_weights_and_scores() -> None:
    fleet = fleet_version()
    own = warm_up(fleet, events(own_rows(400))).manifest
    assert own.personalised
    assert not fleet.personalised
    distance = np.abs(own.moments.mean - fleet.moments.mean - OTHER_MEAN) / SPREAD
    assert distance.max() < 0.2
    np.testing.assert_allclose(own.moments.std, fleet.moments.std, rtol=1e-6)
    assert own.weights is fleet.weights
    assert own.scores is fleet.scores
    assert own.version == fleet.version


def test_the_score_is_high_before_and_usual_after_the_warm_up() -> None:
    fleet = fleet_version()
    first, later = events(own_rows(60)), events(own_rows(300, seed=6))
    own = warm_up(fleet, first).manifest
    assert np.median(buffer_scores(own, later)) < np.median(buffer_scores(fleet, later)) / 3


@pytest.mark.parametrize(("prior", "windows"), [(57, 57), (1000, 57)])
def test_own_residuals_have_the_weight_that_the_prior_gives_them(prior: int, windows: int) -> None:
    fleet = fleet_version(prior=prior)
    quiet = events(own_rows(60))
    own = warm_up(fleet, quiet).manifest
    assert own.residuals.count == windows
    alone = warm_up(replace(fleet, residuals=Residuals()), quiet).manifest.residuals
    np.testing.assert_allclose(own.residuals.squares, alone.blended_with(fleet.residuals, prior).squares)


@pytest.mark.parametrize("by", ["fleet", "client"])
def test_the_scaling_is_the_one_of_the_settings(by: str) -> None:
    fleet, first = fleet_version(by=by), own_rows(200)
    own = warm_up(fleet, events(first)).manifest
    expected = fleet.moments if by == "fleet" else robust_moments(first, fleet.moments)
    np.testing.assert_allclose(own.moments.mean, expected.mean)
    np.testing.assert_allclose(own.moments.std, expected.std)


@settings(deadline=None)
@given(
    start=st.integers(WINDOW, 140),
    length=st.integers(1, 25),
    feature=st.integers(0, 2),
    size=st.floats(15, 1e6),
    sign=st.sampled_from([-1, 1]),
)
def test_a_fault_within_the_first_rows_does_not_become_normal(
    start: int, length: int, feature: int, size: float, sign: int
) -> None:
    fleet, first = fleet_version(), own_rows(160)
    quiet = warm_up(fleet, events(first)).manifest
    first[start : start + length, feature] += sign * size * SPREAD[feature]
    warm = warm_up(fleet, events(first))
    shift = np.abs(warm.manifest.moments.mean - quiet.moments.mean) / SPREAD
    assert shift.max() < 0.25
    fault = first[start : start + length, feature]
    assert not np.isin(fault, warm.normal.rows[:, feature]).any()
    usual = buffer_scores(quiet, events(own_rows(300, seed=6))).max()
    assert buffer_scores(warm.manifest, warm.normal).max() < 2 * usual


def test_a_fault_in_the_smallest_warm_up_hardly_moves_the_mean_and_is_left_out_at_the_next_estimate() -> None:
    fleet, first = fleet_version(window=10), own_rows(60)
    first[20:26, 1] += 40 * SPREAD[1]
    smallest = warm_up(fleet, events(first[:30])).manifest
    assert np.abs(smallest.moments.mean - fleet.moments.mean - OTHER_MEAN)[1] < SPREAD[1]
    normal = warm_up(fleet, events(first)).normal
    assert normal.rows[:, 1].max() < first[20:26, 1].min()
    assert normal.breaks[0]


def test_bursts_that_come_again_and_again_are_normal() -> None:
    fleet, first = fleet_version(), own_rows(200)
    first[10::40, 1] += 30 * SPREAD[1]
    assert len(warm_up(fleet, events(first)).normal.rows) == 200


def test_a_state_of_half_of_the_rows_is_normal() -> None:
    fleet, first = fleet_version(), own_rows(200)
    first[100:, 1] += 30 * SPREAD[1]
    assert len(warm_up(fleet, events(first)).normal.rows) == 200


def test_rows_that_are_left_out_leave_a_break() -> None:
    fleet, first = fleet_version(), own_rows(200)
    first[90:95, 1] += 40 * SPREAD[1]
    kept = warm_up(fleet, events(first)).normal
    at = np.flatnonzero(kept.breaks)
    assert at[0] == 0
    assert len(at) == 2
    assert 90 - WINDOW < at[1] <= 90


def test_missing_values_are_left_out_and_a_silent_feature_is_not_scored() -> None:
    fleet, first = fleet_version(), own_rows(200)
    first[:, 2] = np.nan
    first[::3, 0] = np.nan
    own = warm_up(fleet, events(first)).manifest
    alive, silent = events(own_rows(50)), events(own_rows(50))
    silent.rows[:, 2] = np.nan
    assert np.array_equal(buffer_scores(own, alive), buffer_scores(own, silent))
    assert abs(own.moments.mean[0] - fleet.moments.mean[0] - OTHER_MEAN[0]) < 0.3
    assert np.isfinite(own.precision).all()
    assert np.isfinite(buffer_scores(own, events(own_rows(50)))).all()


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=40),
    by=st.sampled_from([-1000.0, 0.5, 4096.0]),
)
def test_moments_follow_a_shift_and_lie_within_the_values(values: list[int], by: float) -> None:
    column = np.array(values, np.float32)[:, None]
    fleet = Moments.of(np.array([[0.0], [2.0]]))
    own, shifted = robust_moments(column, fleet), robust_moments(column + np.float32(by), fleet)
    np.testing.assert_allclose(shifted.mean, own.mean + by, atol=1e-6)
    np.testing.assert_allclose(shifted.variance, own.variance, atol=1e-6)
    assert column.min() <= own.minimum[0] <= own.mean[0] <= own.maximum[0] <= column.max()


def test_a_warm_up_has_at_least_a_window_of_rows() -> None:
    assert first_estimate_rows(fleet_version(), None) == MIN_ROWS
    assert first_estimate_rows(version(window=64), None) == 64
    assert first_estimate_rows(fleet_version(), 12) == 12
    assert first_estimate_rows(fleet_version(), 1) == WINDOW
