from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.model.weights import (
    Weights,
    add,
    digest,
    is_finite,
    norm,
    scale,
    shapes,
    subtract,
    weighted_mean,
)

SHAPES = {"dense_0/kernel": (3, 2), "dense_0/bias": (2,)}
VALUES = st.floats(-1e3, 1e3, width=32)
WEIGHTS = st.fixed_dictionaries({n: hnp.arrays(np.float32, s, elements=VALUES) for n, s in SHAPES.items()})
PARTS = st.lists(st.tuples(WEIGHTS, st.integers(1, 10_000).map(float)), min_size=1, max_size=6)


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
    for result in (add(a, b), subtract(a, b), scale(a, 0.5), weighted_mean([(a, 1.0), (b, 2.0)])):
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


# The weighted mean.


@given(PARTS)
def test_the_mean_is_the_sum_of_shares(parts: list[tuple[Weights, float]]) -> None:
    total = sum(factor for _, factor in parts)
    for name, array in weighted_mean(parts).items():
        for index in np.ndindex(array.shape):
            expected = sum(float(weights[name][index]) * factor for weights, factor in parts) / total
            assert math.isclose(array[index], expected, rel_tol=1e-5, abs_tol=1e-4)


@given(PARTS, st.randoms())
def test_the_mean_does_not_depend_on_the_order(parts: list[tuple[Weights, float]], random: Any) -> None:
    mean = weighted_mean(parts)
    random.shuffle(parts)
    assert close(weighted_mean(parts), mean, 1e-4)


@given(PARTS, PARTS)
def test_the_mean_of_means_is_the_mean_of_all(
    a: list[tuple[Weights, float]], b: list[tuple[Weights, float]]
) -> None:
    merged = [(weighted_mean(p), sum(factor for _, factor in p)) for p in (a, b)]
    assert close(weighted_mean(merged), weighted_mean(a + b), 1e-3)


@given(WEIGHTS, st.lists(st.floats(0.01, 1e6), min_size=1, max_size=5))
def test_the_mean_of_equal_weights_is_those_weights(weights: Weights, factors: list[float]) -> None:
    assert close(weighted_mean((weights, factor) for factor in factors), weights, 1e-4)


@given(PARTS, st.floats(0.01, 100))
def test_only_the_ratio_of_the_factors_counts(parts: list[tuple[Weights, float]], ratio: float) -> None:
    assert close(weighted_mean((w, f * ratio) for w, f in parts), weighted_mean(parts), 1e-4)


def test_a_client_with_factor_zero_does_not_count() -> None:
    assert close(weighted_mean([(example(1.0), 3.0), (example(9.0), 0.0)]), example(1.0), 0)


def test_the_mean_of_large_weights_does_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    assert is_finite(weighted_mean([(example(largest), 1000.0), (example(largest), 1000.0)]))


@pytest.mark.parametrize("parts", [[], [(example(), 0.0)], [(example(), 1.0), (example(), -1.0)]])
def test_a_mean_without_parts_or_factors_is_refused(parts: list[tuple[Weights, float]]) -> None:
    with pytest.raises(ValueError, match="more than zero"):
        weighted_mean(parts)


# The digest.


@given(WEIGHTS, WEIGHTS)
def test_different_weights_have_different_digests(a: Weights, b: Weights) -> None:
    same = all(a[n].tobytes() == b[n].tobytes() for n in a)
    assert (digest(a) == digest(b)) == same


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    a = {"k": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    other = {"b": np.ones(4, np.float32)[::2], "k": np.asfortranarray(a["k"])}
    assert digest(a) == digest(other)


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((3, 2), np.float32)},
        {"w": np.zeros(6, np.float32)},
        {"v": np.zeros((2, 3), np.float32)},
        {"w": np.zeros((2, 3), np.int32)},
        {"w": np.zeros((2, 3), np.float32), "x": np.zeros(0, np.float32)},
        {},
    ],
)
def test_the_digest_covers_names_shapes_and_types(other: dict[str, Any]) -> None:
    assert digest(other) != digest({"w": np.zeros((2, 3), np.float32)})
