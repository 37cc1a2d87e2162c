"""`none`: the values as they are, four bytes each."""

from __future__ import annotations

import numpy as np

from common.compression.codec import arrays, checked_length, flat, size_of
from common.model.weights import Shapes, Weights


class Float32:
    """Loses nothing."""

    unbiased = True

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Four bytes a value."""
        return flat(values).astype("<f4").tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The values as they were."""
        checked_length(content, self.most_bytes(shapes), "float32")
        return arrays(np.frombuffer(content, "<f4").astype(np.float32), shapes)

    def bound(self, values: Weights) -> float:
        """None is lost."""
        return 0.0

    def most_bytes(self, shapes: Shapes) -> int:
        """Four a value."""
        return 4 * size_of(shapes)
