"""`ternary`: the signs of the values of largest magnitude, and one magnitude for all of them.

Converges only with error feedback. Source: Sattler et al. 2019, "Robust and Communication-Efficient Federated
Learning from Non-IID Data" (sparse ternary compression), algorithm 1.
"""

from __future__ import annotations

import numpy as np

from common.compression import positions
from common.compression.codec import check_length
from common.compression.topk import TopK, largest_positions, read_positions, scatter
from common.model.weights import Shapes, Weights, flatten, max_magnitude, size_of


class Ternary(TopK):
    """Keeps the signs of a share of the values: each becomes plus or minus their mean magnitude, or zero."""

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return the positions, the magnitude as float32, then a bit for each kept value: 1 for minus."""
        row = flatten(values)
        kept = largest_positions(row, self.share)
        magnitude = float(np.abs(row[kept], dtype=np.float64).mean()) if kept.size else 0.0
        signs = np.packbits(row[kept] < 0)
        return positions.pack(kept, len(row)) + np.array([magnitude], "<f4").tobytes() + signs.tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return the magnitude with the signs at their positions, zeros elsewhere."""
        kept, rest = read_positions(content, shapes, self.max_bytes(shapes))
        check_length(rest, 4 + (len(kept) + 7) // 8, "the signs")
        bits = np.unpackbits(np.frombuffer(rest, np.uint8, offset=4), count=len(kept))
        magnitude = np.frombuffer(rest, "<f4", 1)
        # A product would warn of a signalling NaN, which any client can send.
        return scatter(kept, np.where(bits, -magnitude, magnitude), shapes)

    def max_error(self, values: Weights) -> float:
        """Return the largest magnitude: the difference of any value from the mean magnitude is smaller."""
        return 1.0001 * max_magnitude(values) + 1e-44

    def max_bytes(self, shapes: Shapes) -> int:
        """Return the length of an encoding that keeps every value."""
        size = size_of(shapes)
        return positions.max_bytes(size) + 4 + (size + 7) // 8
