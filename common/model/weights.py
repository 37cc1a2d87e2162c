"""A model's named float32 arrays, and the arithmetic that a federation does on them.

Weights are a plain dict from array name to array, in layer order. An update is a difference of weights and
has the same form. All sums are associative and commutative up to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]


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


def digest(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Return a hexadecimal SHA-256 over names, shapes and values, the same on every machine."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def weighted_mean(parts: Iterable[tuple[Weights, float]]) -> Weights:
    """Return the mean of weights, each weighted by its factor, summed in float64.

    Source: McMahan et al. 2017, algorithm 1 (FederatedAveraging).

    Raises:
        ValueError: `parts` is empty, or the factors do not sum to more than zero.
    """
    total = 0.0
    sums: dict[str, NDArray[np.float64]] = {}
    for weights, factor in parts:
        total += factor
        for name, array in weights.items():
            sums[name] = sums.get(name, np.float64(0)) + array.astype(np.float64) * factor
    if total <= 0:
        raise ValueError(f"factors of a weighted mean sum to {total}; expected more than zero")
    return {name: (array / total).astype(np.float32) for name, array in sums.items()}
