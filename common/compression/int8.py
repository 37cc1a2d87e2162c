"""`int8`: one byte for each value and one scale for each array, with stochastic rounding.

Source: Alistarh et al. 2017 (QSGD), section 3, with 127 levels and the largest magnitude as the norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import check_length
from common.model.weights import (
    Flat,
    Shapes,
    Weights,
    array_slices,
    flatten,
    max_magnitude,
    shapes,
    size_of,
    unflatten,
)

LEVELS = 127
MIN_MAGNITUDE = 1e-36
"""Arrays of no larger magnitude become zeros: their scale would have no precision left."""


class Int8:
    """Quantises each array by its largest magnitude."""

    unbiased = True

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return a float32 scale for each array, then a byte for each value."""
        row, slices = flatten(values), [part for _, part in array_slices(shapes(values))]
        scales = np.array([_scale(row[part]) for part in slices], "<f4")
        codes = [_quantise(row[part], scale, rng) for part, scale in zip(slices, scales, strict=True)]
        return scales.tobytes() + b"".join(code.tobytes() for code in codes)

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return each code times the scale of its array."""
        check_length(content, self.max_bytes(shapes), "int8")
        scales = np.frombuffer(content, "<f4", len(shapes))
        row = np.frombuffer(content, np.int8, offset=4 * len(shapes)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for (_, part), scale in zip(array_slices(shapes), scales, strict=True):
                row[part] *= scale
        return unflatten(row, shapes)

    def max_error(self, values: Weights) -> float:
        """Return one level of the array with the largest magnitude."""
        return 1.0001 * max_magnitude(values) / LEVELS + MIN_MAGNITUDE

    def max_bytes(self, shapes: Shapes) -> int:
        """Return one byte for each value and four for each array."""
        return size_of(shapes) + 4 * len(shapes)


def _scale(row: Flat) -> np.float32:
    """Return the size of one level; 0 for a row that becomes zeros."""
    magnitude = float(np.abs(row).max()) if row.size else 0.0
    return np.float32(magnitude / LEVELS) if magnitude > MIN_MAGNITUDE else np.float32(0)


def _quantise(row: Flat, scale: np.float32, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return codes whose mean over many calls, times `scale`, is `row`."""
    if not scale:
        return np.zeros(row.shape, np.int8)
    # In float64, where adding the random number loses no precision.
    levels = np.floor(row.astype(np.float64) / float(scale) + rng.random(row.shape))
    return np.clip(levels, -LEVELS, LEVELS).astype(np.int8)
