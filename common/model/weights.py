"""A model's named float32 arrays: their architecture, and the arithmetic that a federation does on them.

The architecture is independent of any framework: widths, activations, initial weights.

Weights are a plain dict from array name to array, in layer order. An update is a difference of weights and
has the same form. All sums are associative and commutative up to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.autoencoder import Layer
from common.settings import Activation, ModelSettings, PositiveInt

Weights = dict[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]
Flat = NDArray[np.float32]
"""All values of a model in one row."""


@dataclass(frozen=True)
class Architecture:
    """A dense autoencoder over a window of events.

    Its input is the last `window` events of `features` values each, flattened, the oldest event first.

    >>> Architecture(features=19, window=10, hidden=(64, 16, 64)).widths
    (190, 64, 16, 64, 190)
    """

    features: PositiveInt
    window: PositiveInt = 1
    hidden: tuple[PositiveInt, ...] = (64, 16, 64)
    activation: Activation = "relu"
    output_activation: Activation = "linear"

    @classmethod
    def from_settings(cls, settings: ModelSettings, features: int) -> Self:
        """Return the architecture that the settings describe, for a number of features."""
        return cls(features=features, **settings.model_dump())

    @property
    def inputs(self) -> int:
        """Number of values in one window."""
        return self.window * self.features

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of values before the first layer and after each layer."""
        return (self.inputs, *self.hidden, self.inputs)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activation of each layer."""
        return (*[self.activation] * len(self.hidden), self.output_activation)

    @property
    def shapes(self) -> Shapes:
        """The shape of each weight array, by name. Kernels are (inputs, outputs)."""
        shapes: Shapes = {}
        for layer, (inputs, outputs) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            shapes[f"dense_{layer}/kernel"] = (inputs, outputs)
            shapes[f"dense_{layer}/bias"] = (outputs,)
        return shapes

    def layers(self, weights: Weights) -> list[Layer]:
        """Return kernel, bias and activation of each layer."""
        return [
            (weights[f"dense_{layer}/kernel"], weights[f"dense_{layer}/bias"], activation)
            for layer, activation in enumerate(self.activations)
        ]

    def recency_weights(self, decay: float) -> NDArray[np.float32]:
        """Return a weight for each input that falls with the age of its event.

        Args:
            decay: Weight of an event, as a share of the weight of the next one.

        Returns:
            Shape (inputs,), mean 1.

        >>> Architecture(features=1, window=3).recency_weights(0.5).astype(float).round(2).tolist()
        [0.43, 0.86, 1.71]
        """
        events = decay ** np.arange(self.window - 1, -1, -1.0)
        return np.repeat(events / events.mean(), self.features).astype(np.float32)

    def initial_weights(self, seed: int) -> Weights:
        """Return Glorot-uniform kernels and zero biases, as Keras draws them by default.

        Source: Glorot and Bengio 2010, equation 16.
        """
        rng = np.random.default_rng(seed)
        weights: Weights = {}
        for name, shape in self.shapes.items():
            if len(shape) == 1:
                weights[name] = np.zeros(shape, np.float32)
            else:
                limit = np.sqrt(6 / sum(shape))
                weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        return weights


def shapes(weights: Mapping[str, NDArray[np.float32]]) -> Shapes:
    """Return the shape of each array, by name."""
    return {name: array.shape for name, array in weights.items()}


def add(a: Weights, b: Weights) -> Weights:
    """Return `a + b`, array by array.

    >>> add({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})
    {'w': array([2., 2.], dtype=float32)}
    """
    return {name: a[name] + b[name] for name in a}


def subtract(a: Weights, b: Weights) -> Weights:
    """Return `a - b`, the update that leads from `b` to `a`."""
    return {name: a[name] - b[name] for name in a}


def scale(a: Weights, factor: float) -> Weights:
    """Return `a * factor`."""
    return {name: array * np.float32(factor) for name, array in a.items()}


def norm(a: Weights) -> float:
    """Return the Euclidean norm over all arrays together, summed in float64."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in a.values()))


def is_finite(a: Weights) -> bool:
    """Return whether all values are finite."""
    return all(bool(np.isfinite(array).all()) for array in a.values())


def max_magnitude(values: Weights) -> float:
    """Return the largest magnitude of any value."""
    return max((float(np.abs(array).max()) for array in values.values() if array.size), default=0.0)


def digest(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Return a hexadecimal SHA-256 over names, shapes and values, the same on every machine."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def size_of(shapes: Shapes) -> int:
    """Return the number of values in all arrays together."""
    return sum(math.prod(shape) for shape in shapes.values())


def flatten(values: Weights) -> Flat:
    """Return all values in one row, sorted by the names of the arrays."""
    arrays = [np.asarray(values[name], np.float32).ravel() for name in sorted(values)]
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)


def array_slices(shapes: Shapes) -> Iterator[tuple[str, slice]]:
    """Yield each array's name and its slice of the row that `flatten` returns."""
    start = 0
    for name in sorted(shapes):
        end = start + math.prod(shapes[name])
        yield name, slice(start, end)
        start = end


def unflatten(row: Flat, shapes: Shapes) -> Weights:
    """Return the arrays of a row that `flatten` returned, in the order of `shapes`."""
    arrays = {name: row[part].reshape(shapes[name]) for name, part in array_slices(shapes)}
    return {name: arrays[name] for name in shapes}
