"""`float16`: half precision, two bytes a value, rounded to nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import arrays, checked_length, flat, largest, size_of
from common.model.weights import Shapes, Weights

LARGEST = 65504.0
"""Values beyond are cut off: an update of a model never comes near."""

HALF_STEP, MIN_STEP = 2.0**-11, 2.0**-24


class Float16:
    """Eleven significant bits. Rounding to nearest has a bias, though a small one."""

    unbiased = False

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Two bytes a value."""
        return halves(flat(values)).tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The rounded values."""
        checked_length(content, self.most_bytes(shapes), "float16")
        return arrays(np.frombuffer(content, "<f2").astype(np.float32), shapes)

    def bound(self, values: Weights) -> float:
        """Half a unit in the last place of the largest value, and what lies beyond the largest float16."""
        most = largest(values)
        return min(most, LARGEST) * HALF_STEP + MIN_STEP + max(0.0, most - LARGEST)

    def most_bytes(self, shapes: Shapes) -> int:
        """Two a value."""
        return 2 * size_of(shapes)


def halves(row: NDArray[np.floating]) -> NDArray[np.float16]:
    """Floats as little-endian float16, cut off at its largest."""
    found: NDArray[np.float16] = np.clip(row, -LARGEST, LARGEST).astype("<f2")
    return found
