from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.model.weights import (
    Weights,
    add,
    is_finite,
    norm,
    scale,
    shapes,
    subtract,
)

SHAPES = {"dense_0/kernel": (3, 2), "dense_0/bias": (2,)}
VALUES = st.floats(-1e3, 1e3, width=32)
WEIGHTS = st.fixed_dictionaries({n: hnp.arrays(np.float32, s, elements=VALUES) for n, s in SHAPES.items()})


def close(a: Weights, b: Weights, tolerance: float = 1e-2) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[n], b[n], rtol=1e-5, atol=tolerance) for n in a)


def example(value: float = 1.0) -> Weights:
    return {n: np.full(s, value, np.float32) for n, s in SHAPES.items()}


def test_shapes_are_by_name_and_in_order() -> None:
    assert list(shapes(example()).items()) == list(SHAPES.items())


@given(WEIGHTS, WEIGHTS, WEIGHTS)
def test_sums_are_associative_and_commutative(a: Weights, b: Weights, c: Weights) -> None:
    assert close(add(a, b), add(b, a), 0)
    assert close(add(add(a, b), c), add(a, add(b, c)))


@given(WEIGHTS, WEIGHTS)
def test_an_update_leads_from_the_old_weights_to_the_new(old: Weights, new: Weights) -> None:
    assert close(add(old, subtract(new, old)), new)


@given(WEIGHTS, VALUES)
def test_scaling_scales_every_value(a: Weights, factor: float) -> None:
    for name, array in scale(a, factor).items():
        assert np.array_equal(array, a[name] * np.float32(factor))


@given(WEIGHTS, st.floats(-8, 8))
def test_the_norm_is_homogeneous(a: Weights, factor: float) -> None:
    assert math.isclose(norm(scale(a, factor)), abs(factor) * norm(a), rel_tol=1e-4, abs_tol=1e-3)


def test_the_norm_is_over_all_arrays_together() -> None:
    assert norm({"a": np.array([3.0], np.float32), "b": np.array([[0.0, 4.0]], np.float32)}) == 5.0
    assert norm({}) == 0.0


def test_the_norm_does_not_overflow_in_float32() -> None:
    assert norm({"a": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30)


def test_arithmetic_stays_in_float32_and_leaves_its_inputs_alone() -> None:
    a, b = example(1.0), example(2.0)
    for result in (add(a, b), subtract(a, b), scale(a, 0.5)):
        assert {array.dtype for array in result.values()} == {np.dtype(np.float32)}
        assert shapes(result) == SHAPES
    assert close(a, example(1.0), 0)
    assert close(b, example(2.0), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(bad: float) -> None:
    weights = example()
    assert is_finite(weights)
    weights["dense_0/bias"][1] = bad
    assert not is_finite(weights)
