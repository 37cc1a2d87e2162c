"""`ternary`: of the values of largest magnitude only the direction, and one magnitude for all of them.

Converges only with error feedback. Source: Sattler et al. 2019, "Robust and Communication-Efficient Federated
Learning from Non-IID Data" (sparse ternary compression), algorithm 1.
"""

from __future__ import annotations

import numpy as np

from common.compression import indices
from common.compression.codec import checked_length, flat, largest, size_of
from common.compression.topk import TopK, scattered, strongest, within
from common.model.weights import Shapes, Weights


class Ternary(TopK):
    """Keeps the signs of a share of the values: each becomes plus or minus their mean magnitude, or zero."""

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """The positions, the magnitude as float32, then a bit for each value that is kept: 1 for minus."""
        row = flat(values)
        kept = strongest(row, self.share)
        magnitude = float(np.abs(row[kept], dtype=np.float64).mean()) if kept.size else 0.0
        signs = np.packbits(row[kept] < 0)
        return indices.pack(kept, len(row)) + np.array([magnitude], "<f4").tobytes() + signs.tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The magnitude with the signs in their places, zeros elsewhere."""
        kept, rest = within(content, shapes, self.most_bytes(shapes))
        checked_length(rest, 4 + (len(kept) + 7) // 8, "the signs")
        bits = np.unpackbits(np.frombuffer(rest, np.uint8, offset=4), count=len(kept))
        signs = 1 - 2 * bits.astype(np.float32)
        return scattered(kept, signs * np.frombuffer(rest, "<f4", 1), shapes)

    def bound(self, values: Weights) -> float:
        """The largest magnitude: a value may be said to be the mean, however much larger it is."""
        return 1.0001 * largest(values) + 1e-44

    def most_bytes(self, shapes: Shapes) -> int:
        """If every value were kept."""
        size = size_of(shapes)
        return indices.most_bytes(size) + 4 + (size + 7) // 8
