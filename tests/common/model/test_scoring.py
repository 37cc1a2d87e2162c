from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import astuple

from common.model.scoring import BLOCK, ErrorSummary, Floats, reconstruct, scores, windows
from common.model.weights import Architecture, Weights
from common.settings import Activation

ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "linear": lambda x: x,
}
FLOATS = st.floats(-5, 5, width=32)


def plain_output(architecture: Architecture, weights: Weights, values: list[float]) -> list[float]:
    """The forward pass of one window, number by number."""
    for layer, name in enumerate(architecture.activations):
        kernel, bias = weights[f"dense_{layer}/kernel"].tolist(), weights[f"dense_{layer}/bias"].tolist()
        values = [
            ACTIVATIONS[name](sum(v * kernel[i][j] for i, v in enumerate(values)) + bias[j])
            for j in range(len(bias))
        ]
    return values


def plain_scores(architecture: Architecture, weights: Weights, rows: Floats) -> list[float]:
    result = []
    for end in range(architecture.window, len(rows) + 1):
        window = [v for row in rows[end - architecture.window : end].tolist() for v in row]
        output = plain_output(architecture, weights, window)
        result.append(sum((o - v) ** 2 for o, v in zip(output, window, strict=True)) / len(window))
    return result


def drawn(architecture: Architecture, seed: int) -> Weights:
    """Weights with biases that are not zero."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in architecture.shapes.items()}


def test_every_activation_has_an_independent_version_here() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))


@pytest.mark.parametrize("activation", get_args(Activation))
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 999))
def test_scores_equal_a_computation_row_by_row(
    activation: Activation, data: st.DataObject, seed: int
) -> None:
    architecture = Architecture(
        features=data.draw(st.integers(1, 3)),
        window=data.draw(st.integers(1, 4)),
        hidden=data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)),
        activation=activation,
        output_activation=data.draw(st.sampled_from(get_args(Activation))),
    )
    shape = (data.draw(st.integers(0, 8)), architecture.features)
    rows = data.draw(hnp.arrays(np.float32, shape, elements=FLOATS))
    weights = drawn(architecture, seed)
    result = scores(architecture, weights, rows)
    assert result.dtype == np.float32
    assert result.shape == (max(0, len(rows) - architecture.window + 1),)
    assert result.tolist() == pytest.approx(plain_scores(architecture, weights, rows), rel=1e-3, abs=1e-3)


def test_more_rows_than_a_block_are_scored_like_few() -> None:
    architecture = Architecture(features=1, window=3, hidden=(2,))
    weights = drawn(architecture, 0)
    for count in (BLOCK, BLOCK + 1, BLOCK + 2, BLOCK + 3, 2 * BLOCK + 5):
        rows = np.random.default_rng(count).normal(size=(count, 1)).astype(np.float32)
        result = scores(architecture, weights, rows)
        assert len(result) == count - 2
        near = [*range(5), *range(BLOCK - 5, min(BLOCK + 5, count - 2)), *range(count - 7, count - 2)]
        for i in near:
            expected = scores(architecture, weights, rows[i : i + 3])
            assert result[i] == pytest.approx(expected[0], rel=1e-5)


def test_a_perfect_model_scores_zero() -> None:
    architecture = Architecture(features=2, window=1, hidden=(2,), activation="linear")
    eye, zero = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    weights = {"dense_0/kernel": eye, "dense_0/bias": zero, "dense_1/kernel": eye, "dense_1/bias": zero}
    rows = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    assert not scores(architecture, weights, rows).any()


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_inputs_bring_no_warning_and_no_nan(activation: Activation, size: float) -> None:
    architecture = Architecture(features=1, hidden=(1,), activation=activation)
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    weights = {"dense_0/kernel": one, "dense_0/bias": zero, "dense_1/kernel": one, "dense_1/bias": zero}
    for sign in (1, -1):
        output = reconstruct(architecture, weights, np.array([[sign * size]], np.float32))
        assert output.dtype == np.float32
        assert output[0, 0] == pytest.approx(ACTIVATIONS[activation](sign * size), rel=1e-5)


# Windows.


@given(
    st.integers(1, 4).flatmap(
        lambda f: hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(f)), elements=FLOATS)
    ),
    st.data(),
)
def test_windows_are_flattened_oldest_first(rows: Floats, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, len(rows)))
    result = windows(rows, window)
    assert result.shape == (len(rows) - window + 1, window * rows.shape[1])
    for i, flat in enumerate(result):
        assert flat.tolist() == rows[i : i + window].ravel().tolist()


# The summary of errors.


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(0, 1e6, width=32)))
def test_a_summary_is_that_of_the_errors(errors: Floats) -> None:
    summary, ordered = ErrorSummary.of(errors), sorted(errors.tolist())
    assert summary.count == len(errors)
    assert summary.mean == pytest.approx(math.fsum(ordered) / len(ordered))
    assert summary.max == ordered[-1]
    for share, result in ((0.5, summary.p50), (0.95, summary.p95), (0.99, summary.p99)):
        position = share * (len(ordered) - 1)
        low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
        assert result == pytest.approx(low + (high - low) * (position % 1), rel=1e-5)
    assert {type(v) for v in astuple(summary)} == {int, float}


def test_a_mean_over_many_errors_does_not_drift() -> None:
    assert ErrorSummary.of(np.full(3_000_000, 0.1, np.float32)).mean == pytest.approx(0.1, rel=1e-6)
