"""`sign`: one bit a value, and the mean magnitude of each array.

Says in which direction each value moved, and how far values of its array move on average. Converges only
with error feedback. Sources: Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019 (EF-signSGD).
"""

from __future__ import annotations

import numpy as np

from common.compression.codec import arrays, checked_length, flat, largest, parts, size_of
from common.model.weights import Shapes, Weights, shapes


class Sign:
    """Plus or minus the mean magnitude."""

    unbiased = False

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """A float32 magnitude for each array, then a bit for each value: 1 for minus."""
        row = flat(values)
        spans = [span for _, span in parts(shapes(values))]
        sizes = [float(np.abs(row[s], dtype=np.float64).mean()) if row[s].size else 0.0 for s in spans]
        return np.array(sizes, "<f4").tobytes() + np.packbits(row < 0).tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Each magnitude with the signs of its array."""
        checked_length(content, self.most_bytes(shapes), "sign")
        sizes = np.frombuffer(content, "<f4", len(shapes))
        bits = np.unpackbits(np.frombuffer(content, np.uint8, offset=4 * len(shapes)), count=size_of(shapes))
        row = 1 - 2 * bits.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for (_, part), size in zip(parts(shapes), sizes, strict=True):
                row[part] *= size
        return arrays(row, shapes)

    def bound(self, values: Weights) -> float:
        """The largest magnitude: a value may be said to be the mean and be 0, or as large as the largest."""
        return 1.0001 * largest(values) + 1e-44

    def most_bytes(self, shapes: Shapes) -> int:
        """A bit a value, four bytes an array."""
        return 4 * len(shapes) + (size_of(shapes) + 7) // 8
