"""Moments and residuals of rows with missing values, and the floors of a feature's spread."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.moments import MAX_SPREAD_RATIO, Moments, Scaler
from common.model.residuals import Residuals
from common.settings import ScalingSettings
from tests.client import sample_versions as samples
from tests.common.model.test_moments import same

Rows = NDArray[np.float32]

VALUES = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6, width=32))
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=VALUES)
WHOLE = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)
)
SQUARES = hnp.arrays(np.float32, (12, 3), elements=st.one_of(st.just(np.nan), st.floats(0, 1e6, width=32)))


@given(ROWS)
def test_moments_are_those_of_the_values_of_each_feature(rows: Rows) -> None:
    moments = Moments.of(rows)
    assert moments.count == len(rows)
    for i in range(3):
        values = rows[~np.isnan(rows[:, i]), i].astype(np.float64)
        assert np.broadcast_to(moments.counts, 3)[i] == len(values)
        if len(values):
            assert np.isclose(moments.mean[i], values.mean())
            assert np.isclose(moments.variance[i], values.var(), atol=1e-9)
            assert (moments.minimum[i], moments.maximum[i]) == (values.min(), values.max())
        else:
            assert not any(a[i] for a in (moments.mean, moments.m2, moments.minimum, moments.maximum))


@given(WHOLE)
def test_without_missing_values_no_bit_is_changed(rows: Rows) -> None:
    moments, mean = Moments.of(rows), rows.mean(axis=0, dtype=np.float64)
    assert moments.present.shape == (0,)
    assert np.array_equal(moments.mean, mean)
    assert np.array_equal(moments.m2, np.square(rows - mean, dtype=np.float64).sum(axis=0))


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_merging_parts_equals_computing_on_the_whole(parts: list[Rows]) -> None:
    merged, whole = Moments.merge_all(map(Moments.of, parts)), Moments.of(np.concatenate(parts))
    assert same(merged, whole)
    assert np.array_equal(np.broadcast_to(merged.counts, 3), np.broadcast_to(whole.counts, 3))
    assert same(Moments.merge_all(map(Moments.of, parts[::-1])), whole)


@given(ROWS, st.permutations(range(3)))
def test_taken_features_have_the_moments_of_their_columns(rows: Rows, columns: list[int]) -> None:
    taken, wanted = Moments.of(rows).take(columns), Moments.of(rows[:, columns])
    assert same(taken, wanted)
    assert np.array_equal(taken.counts, wanted.counts)
    assert np.array_equal(taken.steps, wanted.steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"present": np.array([5.0, 1.0])}, "'present' is more than the 2 rows"),
        ({"present": np.array([-1.0, 1.0])}, "'present' is negative"),
        ({"present": np.zeros(3)}, "'present' is not 2 finite values"),
        ({"step": np.array([np.nan, 1.0])}, "'step' is not 2 finite values"),
        ({"step": np.array([-1.0, 1.0])}, "'step' is negative"),
    ],
)
def test_impossible_moments_are_refused(changes: dict[str, Any], message: str) -> None:
    sound = Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(sound, **changes)


def test_a_feature_that_was_never_there_is_missing_in_every_scaled_row() -> None:
    rows = samples.rows(100)
    rows[:, 1] = np.nan
    own, fleet = Moments.of(rows), Moments.of(samples.rows(100, seed=1))
    for moments in (own, fleet.for_client(own), own.raised_by(fleet)):
        scaled = Scaler.of(moments, 10.0).apply(samples.rows(5))
        assert np.isnan(scaled).tolist() == [[False, True, False]] * 5
    # In the fleet another client has it, and a client that has it although the fleet does not keeps it.
    assert np.isfinite(Scaler.of(own.merge(fleet)).apply(samples.rows(5))).all()
    new = Scaler.of(own.for_client(fleet)).apply(samples.rows(100, seed=1))
    np.testing.assert_allclose(new.std(axis=0), 1, rtol=0.3)


# The floors of the spread.


def flips(share: float, size: float, seed: int = 0, count: int = 2000) -> Rows:
    """One feature that is nearly always 0 and now and then `size`."""
    return (size * (np.random.default_rng(seed).random((count, 1)) < share)).astype(np.float32)


@pytest.mark.parametrize("share", [0.003, 0.02, 0.2])
@pytest.mark.parametrize("size", [0.01, 1.0, 4096.0])
def test_one_step_of_a_feature_that_hardly_varies_is_at_most_one_spread(share: float, size: float) -> None:
    moments = Moments.of(flips(share, size))
    assert moments.steps == pytest.approx(size)
    assert np.abs(Scaler.of(moments).apply(flips(share, size))).max() <= 1


def test_a_share_of_varying_totals_has_the_step_that_it_keeps_from_0() -> None:
    rng = np.random.default_rng(0)
    ticks = (rng.random(2000) < 0.02).astype(float) / rng.integers(795, 806, 2000)
    assert Moments.of(ticks.astype(np.float32)[:, None]).steps == pytest.approx(1 / 805, rel=0.02)


def test_a_single_outlier_is_not_a_step() -> None:
    rows = flips(0, 1.0)
    rows[7] = 50
    assert Moments.of(rows).steps.tolist() == [0]
    # Within its range, nothing is more than a hundred spreads away.
    assert Scaler.of(Moments.of(rows)).std >= 0.5


def test_a_feature_that_varies_keeps_its_spread() -> None:
    rng = np.random.default_rng(0)
    counts, rounded = rng.poisson(30, 3000), rng.uniform(0, 1, 3000).round(2)
    columns = [rng.normal(0, 1, 3000), rng.exponential(1, 3000), counts, rounded]
    rows = np.column_stack(columns).astype(np.float32)
    moments = Moments.of(rows)
    assert np.array_equal(moments.std, np.sqrt(moments.variance))


def test_a_step_of_a_feature_that_hardly_varies_adds_at_most_a_usual_score() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(0, 1, (3000, 2)), flips(0.009, 0.01, count=3000)]).astype(np.float32)
    plain = samples.version(1, window=4)
    squares = np.tile(np.array([0.5, 0.5, 0.009], np.float32), (50, 4))
    version = samples.replace(plain, moments=Moments.of(rows), residuals=Residuals.of(squares))
    newest = version.precision[-1] / version.architecture.inputs
    assert newest <= 1.0
    # Without the floor, an input with so small a usual error would weigh far more.
    assert Residuals.of(squares).precision(12)[-1] > 5 * version.precision[-1]


def test_a_fleet_knows_the_step_of_a_feature_that_a_client_has_not_seen_change() -> None:
    fleet = Moments.of(flips(0.02, 0.5)).merge(Moments.of(flips(0.02, 0.25, seed=1)))
    own = Moments.of(flips(0, 1))
    assert fleet.steps.tolist() == [0.25]
    assert fleet.for_client(own).steps.tolist() == [0.25]


@pytest.mark.parametrize("by", ["shared", "client", "fleet"])
@given(WHOLE, WHOLE, ROWS, st.sampled_from([1e-3, 1.0, 1e3]))
def test_moments_that_a_client_scales_by_are_the_same_if_chosen_again(
    by: Any, x: Rows, y: Rows, own: Rows, size: float
) -> None:
    settings = ScalingSettings(by=by)
    fleet, client = Moments.of(x).merge(Moments.of(y)), Moments.of(own * np.float32(size))
    once = Moments.chosen(settings, fleet, client)
    again = Moments.chosen(settings, once, once)
    np.testing.assert_allclose(again.std, once.std, rtol=1e-9)
    assert np.array_equal(again.mean, once.mean)
    assert np.array_equal(np.broadcast_to(again.counts, 3) > 0, np.broadcast_to(once.counts, 3) > 0)


def test_a_feature_that_spreads_far_more_on_a_client_is_not_scaled_by_the_fleets_spread_alone() -> None:
    rng = np.random.default_rng(0)
    fleet = Moments.of(rng.normal(0, 1, (500, 3)).astype(np.float32))
    own = Moments.of((rng.normal(0, 1, (500, 3)) * [1, 1, 1000]).astype(np.float32))
    np.testing.assert_allclose(fleet.for_client(own).std, [1, 1, 1000 / MAX_SPREAD_RATIO], rtol=0.1)
    np.testing.assert_allclose(fleet.raised_by(own).std, [1, 1, 1000 / MAX_SPREAD_RATIO], rtol=0.1)


# Residuals.


@given(SQUARES, st.lists(st.integers(0, 12), max_size=3))
def test_residuals_of_parts_are_those_of_the_whole(squares: Rows, cuts: list[int]) -> None:
    parts = [Residuals.of(part) for part in np.split(squares, sorted(cuts))]
    whole, merged = Residuals.of(squares), Residuals.merge_all(parts)
    assert merged.count == whole.count == (~np.isnan(squares)).any(axis=1).sum()
    if whole.count:
        assert np.allclose(merged.squares, whole.squares, rtol=1e-6)
        counts = np.broadcast_to(whole.counts, 3)
        assert np.array_equal(np.broadcast_to(merged.counts, 3), counts)
        assert np.array_equal(counts, (~np.isnan(squares)).sum(axis=0))
    assert np.isfinite(merged.precision(3)).all()


def test_a_usual_error_is_the_mean_over_the_windows_that_have_the_input() -> None:
    squares = np.array([[4.0, np.nan, np.nan], [2.0, 5.0, np.nan]], np.float32)
    complete = np.array([[3.0, 5.0, 4.0]])  # an input that is never there counts like the mean of the others
    np.testing.assert_allclose(
        Residuals.of(squares).precision(3), Residuals.of(complete).precision(3), rtol=1e-6
    )


def test_an_input_that_one_side_never_had_is_blended_from_the_other() -> None:
    own = Residuals.of(np.tile(np.array([8.0, np.nan, 8.0], np.float32), (50, 1)))
    fleet = Residuals.of(np.tile(np.array([2.0, 2.0, np.nan], np.float32), (50, 1)))
    blend = own.blended_with(fleet, 50)
    np.testing.assert_allclose(blend.squares / blend.count, [4, 2, 8], rtol=0.03)


# Files.


def test_a_version_file_keeps_what_is_missing() -> None:
    rows = samples.rows(50)
    rows[::3, 1] = np.nan
    squares = np.where(np.arange(9) % 3 == 1, np.nan, 1.0).astype(np.float32)
    squares = np.stack([squares, np.ones(9, np.float32)])
    plain = samples.version(4, 3)
    given_ = samples.replace(plain, moments=Moments.of(rows), residuals=Residuals.of(squares))
    back = Manifest.unpack(given_.pack())
    assert back.hash == given_.hash != plain.hash
    assert np.array_equal(back.moments.present, given_.moments.present)
    assert np.array_equal(back.moments.step, given_.moments.step)
    assert back.residuals.present.tolist() == [2, 1, 2] * 3
    assert np.array_equal(back.precision, given_.precision)
