from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.formats.bundle import as_dataclass
from common.model.weights import Architecture, digest, shapes
from common.settings import ModelSettings

ARCHITECTURES = st.builds(
    Architecture,
    features=st.integers(1, 5),
    window=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "tanh"]),
    output_activation=st.sampled_from(["linear", "sigmoid"]),
)


@given(ARCHITECTURES)
def test_every_layer_takes_what_the_layer_before_gives(architecture: Architecture) -> None:
    widths, result = architecture.widths, architecture.shapes
    assert widths[0] == widths[-1] == architecture.inputs == architecture.window * architecture.features
    assert len(architecture.activations) == len(widths) - 1 == len(result) // 2
    for layer in range(len(widths) - 1):
        assert result[f"dense_{layer}/kernel"] == (widths[layer], widths[layer + 1])
        assert result[f"dense_{layer}/bias"] == (widths[layer + 1],)


@given(ARCHITECTURES)
def test_only_the_last_layer_has_the_output_activation(architecture: Architecture) -> None:
    *hidden, last = architecture.activations
    assert hidden == [architecture.activation] * len(architecture.hidden)
    assert last == architecture.output_activation


@given(ARCHITECTURES)
def test_json_gives_the_architecture_back(architecture: Architecture) -> None:
    assert (
        as_dataclass(Architecture, json.loads(json.dumps(dataclasses.asdict(architecture)))) == architecture
    )


def test_settings_describe_an_architecture() -> None:
    settings = ModelSettings(window=4, hidden=(6, 2, 6), activation="tanh", output_activation="sigmoid")
    assert Architecture.from_settings(settings, 3) == Architecture(3, 4, (6, 2, 6), "tanh", "sigmoid")


@given(ARCHITECTURES, st.integers(0, 2**32))
def test_the_seed_decides_the_initial_weights(architecture: Architecture, seed: int) -> None:
    first = architecture.initial_weights(seed)
    assert shapes(first) == architecture.shapes
    assert list(first) == list(architecture.shapes)
    assert {array.dtype for array in first.values()} == {np.dtype(np.float32)}
    assert digest(first) == digest(architecture.initial_weights(seed))
    assert digest(first) != digest(architecture.initial_weights(seed + 1))


@pytest.mark.parametrize("seed", [0, 1])
def test_first_kernels_are_glorot_uniform_and_biases_zero(seed: int) -> None:
    architecture = Architecture(features=100, window=1, hidden=(300,))
    first = architecture.initial_weights(seed)
    kernel, limit = first["dense_0/kernel"], np.sqrt(6 / 400)
    assert np.abs(kernel).max() <= np.float32(limit)
    assert np.abs(kernel).max() > 0.999 * limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert abs(kernel.mean()) < 0.02 * limit
    assert not first["dense_0/bias"].any()
    assert not np.array_equal(first["dense_0/kernel"].ravel(), first["dense_1/kernel"].ravel())
