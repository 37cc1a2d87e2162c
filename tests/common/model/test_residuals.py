from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.model.residuals import FLOOR, Residuals

SQUARES = arrays.arrays(np.float32, (12, 3), elements=st.floats(0, 1e6, width=32))


def same(a: Residuals, b: Residuals) -> bool:
    return a.count == b.count and np.allclose(a.squares, b.squares, rtol=1e-6)


@given(SQUARES, st.lists(st.integers(0, 12), max_size=3))
def test_merging_parts_is_computing_on_the_whole(squares: np.ndarray, cuts: list[int]) -> None:
    parts = [Residuals.of(part) for part in np.split(squares, sorted(cuts))]
    whole = Residuals.of(squares)
    assert same(Residuals.merge_all(parts), whole)
    assert same(Residuals.merge_all(reversed(parts)), whole)


@given(SQUARES)
def test_what_is_packed_comes_back(squares: np.ndarray) -> None:
    result = Residuals.unpacked(Residuals.of(squares).packed())
    assert same(result, Residuals.of(squares))
    assert same(Residuals.unpacked(Residuals().packed()), Residuals())


def test_a_usual_error_scores_one_and_a_constant_input_no_more_than_its_floor_allows() -> None:
    squares = np.array([[4.0, 100.0, 0.0], [6.0, 200.0, 0.0]])
    precision = Residuals.of(squares).precision(3)
    usual = squares.mean(axis=0)
    floor = FLOOR * usual.mean()
    np.testing.assert_allclose(precision, 1 / (usual + floor), rtol=1e-6)
    assert precision[2] == pytest.approx(1 / floor)


@pytest.mark.parametrize("nothing", [Residuals(), Residuals.of(np.zeros((5, 3)))])
def test_without_residuals_all_inputs_weigh_the_same(nothing: Residuals) -> None:
    assert nothing.precision(3).tolist() == [1, 1, 1]


def test_errors_that_are_not_finite_are_left_out() -> None:
    assert Residuals.of(np.array([[1.0, np.inf], [1.0, 1.0]])).count == 0


def test_a_few_own_windows_weigh_little_beside_the_fleets() -> None:
    own, fleet = Residuals.of(np.full((10, 2), 8.0)), Residuals.of(np.full((1000, 2), 2.0))
    mixed = own.blended_with(fleet, prior=30)
    # Each is lifted by its floor, and so is what comes of them.
    assert mixed.count == 10
    np.testing.assert_allclose(mixed.squares / mixed.count, 1.01 * 8 ** (1 / 4) * 2 ** (3 / 4))
    assert own.blended_with(Residuals(), 30) is own
    assert Residuals().blended_with(fleet, 30) is fleet


def test_constant_inputs_leave_all_values_finite() -> None:
    own, fleet = Residuals.of(np.zeros((10, 2))), Residuals.of(np.array([[4.0, 0.0]]))
    for a in (own, fleet):
        for b in (own, fleet):
            assert np.isfinite(a.blended_with(b, 30).precision(2)).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.zeros((1, 2)),
        np.array([1.0]),
        np.array([0.0, 1.0]),
        np.array([-1.0, 1.0]),
        np.array([1.0, -1.0]),
        np.array([1.0, np.nan]),
        np.array([np.inf, 1.0]),
        np.array([1.0, 1.0], np.float32),
    ],
)
def test_arrays_of_another_form_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="residuals: expected"):
        Residuals.unpacked(array)
