from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import replace
from numpy.typing import NDArray

from common.model.moments import Moments, Scaler
from common.settings import ScalingSettings

Rows = NDArray[np.float32]

ROWS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)
)


def same(a: Moments, b: Moments) -> bool:
    """Whether two moments are equal up to rounding, which grows with the magnitude of the values."""
    largest = float(np.abs([a.minimum, a.maximum]).max())
    return (
        a.count == b.count
        and np.allclose(a.mean, b.mean, rtol=1e-9, atol=1e-9 * largest)
        and np.allclose(a.m2, b.m2, rtol=1e-9, atol=1e-9 * a.count * largest**2)
        and np.array_equal(a.minimum, b.minimum)
        and np.array_equal(a.maximum, b.maximum)
    )


@given(ROWS)
def test_moments_are_those_of_the_rows(rows: Rows) -> None:
    wide, moments = rows.astype(np.float64), Moments.of(rows)
    assert moments.count == len(rows)
    assert np.allclose(moments.mean, wide.mean(axis=0))
    assert np.allclose(moments.variance, wide.var(axis=0), atol=1e-9)
    assert np.array_equal(moments.minimum, wide.min(axis=0))
    assert np.array_equal(moments.maximum, wide.max(axis=0))
    assert {a.dtype for a in (moments.mean, moments.m2, moments.minimum, moments.maximum)} == {
        np.dtype(float)
    }


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_merging_parts_equals_computing_on_the_whole(parts: list[Rows]) -> None:
    assert same(Moments.merge_all(map(Moments.of, parts)), Moments.of(np.concatenate(parts)))


@given(ROWS, ROWS, ROWS)
def test_merging_is_associative_and_commutative(x: Rows, y: Rows, z: Rows) -> None:
    a, b, c = Moments.of(x), Moments.of(y), Moments.of(z)
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_a_small_spread_on_a_large_offset_is_not_lost() -> None:
    rows = 1e9 + np.random.default_rng(0).normal(size=(1000, 1))
    merged = Moments.merge_all(Moments.of(part) for part in np.array_split(rows, 7))
    assert merged.variance == pytest.approx(rows.var(axis=0), rel=1e-6)


def test_merging_no_parts_is_an_error() -> None:
    with pytest.raises(TypeError):
        Moments.merge_all([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "moments of 0 rows"),
        ({"mean": np.array([np.nan, 0.0])}, "'mean' is not 2 finite values"),
        ({"m2": np.array([np.inf, 0.0])}, "'m2' is not 2 finite values"),
        ({"minimum": np.zeros(3)}, "'minimum' is not 2 finite values"),
        ({"maximum": np.zeros((2, 1))}, "'maximum' is not 2 finite values"),
        ({"m2": np.array([-1.0, 0.0])}, "'m2' is negative"),
    ],
)
def test_impossible_moments_are_refused(changes: dict[str, Any], message: str) -> None:
    sound = Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
    with pytest.raises(ValueError, match=message):
        replace(sound, **changes)


@pytest.mark.parametrize("rows", [[[np.inf]], [[1.0], [-np.inf]]])
def test_rows_with_infinite_values_have_no_moments(rows: Any) -> None:
    with pytest.raises(ValueError, match="finite"), np.errstate(invalid="ignore"):
        Moments.of(np.array(rows))


@given(ROWS, st.permutations(range(3)))
def test_taken_features_have_the_moments_of_their_columns(rows: Rows, columns: list[int]) -> None:
    assert same(Moments.of(rows).take(columns), Moments.of(rows[:, columns]))
    assert same(Moments.of(rows).take(columns[:1]), Moments.of(rows[:, columns[:1]]))


# Scaling.


@given(ROWS)
def test_scaled_rows_have_mean_zero_and_deviation_one(rows: Rows) -> None:
    spread, moments = np.ptp(rows.astype(np.float64), axis=0), Moments.of(rows)
    assume((spread > 1e-2 * np.abs(rows).max(axis=0)).all() and (spread > 1e-3).all())
    assume((moments.steps <= np.sqrt(moments.variance)).all())
    scaled = Scaler.of(moments).apply(rows).astype(np.float64)
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(scaled.std(axis=0), 1, atol=1e-3)


@given(ROWS)
def test_scaled_rows_are_always_finite(rows: Rows) -> None:
    scaled = Scaler.of(Moments.of(rows)).apply(rows)
    assert scaled.dtype == np.float32
    assert scaled.shape == rows.shape
    assert np.isfinite(scaled).all()


def test_a_spread_too_small_for_float32_is_only_centred() -> None:
    rows = np.array([[0.0], [1e-45], [0.0]], np.float32)
    assert np.isfinite(Scaler.of(Moments.of(rows)).apply(rows)).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -273.15, 1e6, 1e-6, 16_777_217.0])
def test_a_feature_that_never_varies_is_scaled_by_a_share_of_its_value(value: float) -> None:
    rows = np.full((50, 1), value, np.float32)
    scaler = Scaler.of(Moments.of(rows))
    assert scaler.std.tolist() == [pytest.approx(max(1.0, abs(value) / 100))]
    assert not scaler.apply(rows).any()
    assert scaler.apply(rows + 2 * scaler.std)[0, 0] == pytest.approx(2.0, rel=0.01)


def test_rounding_noise_is_not_scaled_up() -> None:
    rows = np.float32(1e6) + np.array([[0.0], [0.0625]] * 20, np.float32)
    assert np.abs(Scaler.of(Moments.of(rows)).apply(rows)).max() < 1e-4


@given(ROWS, st.floats(0.01, 10))
def test_clipping_compresses_both_sides_and_changes_nothing_between(rows: Rows, clip: float) -> None:
    moments = Moments.of(rows)
    free, cut = Scaler.of(moments).apply(rows), Scaler.of(moments, clip).apply(rows)
    assert cut.dtype == np.float32
    far = np.abs(free) > np.float32(clip)
    expected = clip + np.log1p(np.abs(free[far]).astype(float) - clip)
    np.testing.assert_allclose(np.abs(cut[far]), expected, rtol=1e-5)
    between = np.abs(free) < np.float32(clip)
    assert np.array_equal(cut[between], free[between])
    assert np.array_equal(np.sign(cut), np.sign(free))


@given(ROWS)
def test_scaling_leaves_its_input_alone(rows: Rows) -> None:
    before = rows.copy()
    Scaler.of(Moments.of(rows), 1.0).apply(rows)
    assert np.array_equal(rows, before)


@given(ROWS)
def test_no_scaling_changes_nothing(rows: Rows) -> None:
    assert np.array_equal(Scaler.none(3).apply(rows), rows)


@pytest.mark.parametrize(
    ("values", "mean", "clip"),
    [
        ({"by": "fleet", "clip": 3.0}, 10.0, 3.0),
        ({"by": "client", "clip": 3.0}, 2.0, 3.0),
        ({"by": "client", "clip": None}, 2.0, None),
        ({"by": "shared"}, 2.0, 10.0),
        ({"by": "none"}, 0.0, None),
    ],
)
def test_settings_choose_whose_moments_scale(values: dict[str, Any], mean: float, clip: float | None) -> None:
    fleet, own = (Moments.of(np.array([[m - 1.0], [m + 1.0]])) for m in (10.0, 2.0))
    scaler = Scaler.chosen(ScalingSettings(**values), fleet, own)
    assert (scaler.mean.tolist(), scaler.std.tolist(), scaler.clip) == ([mean], [1.0], clip)


def test_the_distance_between_the_means_of_clients_is_not_spread() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 500, 3))
    rows[1] += 100
    here, there = map(Moments.of, rows)
    fleet = here.merge(there)
    np.testing.assert_allclose(fleet.within, here.m2 + there.m2)
    assert (fleet.variance > 2000).all()
    shared = fleet.for_client(here)
    np.testing.assert_allclose(shared.mean, here.mean)
    np.testing.assert_allclose(shared.variance, 1, rtol=0.2)
    assert np.array_equal(fleet.for_client(shared).mean, shared.mean)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_a_client_of_another_magnitude_has_its_spread_adjusted(size: float) -> None:
    rng = np.random.default_rng(1)
    usual = [rng.normal(50, 2, (500, 3)).astype(np.float32) for _ in range(4)]
    other = (rng.normal(5, 2, (500, 3)) * size).astype(np.float32)
    fleet = Moments.merge_all(Moments.of(rows) for rows in (*usual, other))
    for rows in (*usual, other):
        scaled = Scaler.of(fleet.for_client(Moments.of(rows))).apply(rows)
        assert (scaled.std(axis=0) > 0.05).all()
        assert (scaled.std(axis=0) < 20).all()


def test_a_feature_that_hardly_varies_on_one_client_keeps_the_fleets_spread() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (2, 500, 3)).astype(np.float32)
    rows[0, :, 1] *= 1e-4
    fleet = Moments.merge_all([Moments.of(rows[0]), Moments.of(rows[1])])
    shared = fleet.for_client(Moments.of(rows[0]))
    assert np.array_equal(shared.m2, fleet.within)
