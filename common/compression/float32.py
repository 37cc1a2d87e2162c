"""`none`: the exact values, four bytes each."""

from __future__ import annotations

import numpy as np

from common.compression.codec import check_length
from common.model.weights import Shapes, Weights, flatten, size_of, unflatten


class Float32:
    """Encodes without loss."""

    unbiased = True

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return four bytes for each value."""
        return flatten(values).astype("<f4").tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return the exact values."""
        check_length(content, self.max_bytes(shapes), "float32")
        return unflatten(np.frombuffer(content, "<f4").astype(np.float32), shapes)

    def max_error(self, values: Weights) -> float:
        """Return 0."""
        return 0.0

    def max_bytes(self, shapes: Shapes) -> int:
        """Return four bytes for each value."""
        return 4 * size_of(shapes)
