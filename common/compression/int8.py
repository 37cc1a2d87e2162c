"""`int8`: one byte a value and one scale an array, rounded up or down by chance so that the mean is right.

Source: Alistarh et al. 2017 (QSGD), section 3, with 127 levels and the largest magnitude as the norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import Flat, arrays, checked_length, flat, largest, parts, size_of
from common.model.weights import Shapes, Weights, shapes

LEVELS = 127
SMALLEST = 1e-36
"""Arrays with no larger value than this may become zeros: their scale would have no precision left."""


class Int8:
    """Quantises each array by its largest magnitude."""

    unbiased = True

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """A float32 scale for each array, then a byte for each value."""
        row, spans = flat(values), list(parts(shapes(values)))
        scales = np.array([scale_of(row[span]) for _, span in spans], "<f4")
        codes = [quantised(row[s], scale, rng) for (_, s), scale in zip(spans, scales, strict=True)]
        return scales.tobytes() + b"".join(code.tobytes() for code in codes)

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Each code times the scale of its array."""
        checked_length(content, self.most_bytes(shapes), "int8")
        scales = np.frombuffer(content, "<f4", len(shapes))
        row = np.frombuffer(content, np.int8, offset=4 * len(shapes)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for (_, part), scale in zip(parts(shapes), scales, strict=True):
                row[part] *= scale
        return arrays(row, shapes)

    def bound(self, values: Weights) -> float:
        """One level of the array with the largest magnitude."""
        return level_of(largest(values))

    def most_bytes(self, shapes: Shapes) -> int:
        """One a value, four an array."""
        return size_of(shapes) + 4 * len(shapes)


def level_of(magnitude: float) -> float:
    """The largest error of a value that is quantised with others of at most this magnitude."""
    return 1.0001 * magnitude / LEVELS + SMALLEST


def scale_of(row: Flat) -> np.float32:
    """What one level is worth."""
    magnitude = float(np.abs(row).max()) if row.size else 0.0
    return np.float32(magnitude / LEVELS) if magnitude > SMALLEST else np.float32(0)


def quantised(row: Flat, scale: np.float32, rng: np.random.Generator) -> NDArray[np.int8]:
    """Codes whose mean over many calls, times `scale`, is `row`."""
    if not scale:
        return np.zeros(row.shape, np.int8)
    # In float64, where adding the draw loses nothing that could be noticed.
    levels = np.floor(row.astype(np.float64) / float(scale) + rng.random(row.shape))
    return np.clip(levels, -LEVELS, LEVELS).astype(np.int8)
