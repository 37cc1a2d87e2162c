"""A model's named float32 arrays, and the arithmetic that a federation does on them.

Weights are a plain dict from array name to array, in layer order. An update is a difference of weights and
has the same form. All sums are associative and commutative up to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]
Flat = NDArray[np.float32]
"""All values of a model in one row."""


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
