"""`topk_int8`: the values of largest magnitude, each as one byte of a common scale."""

from __future__ import annotations

import numpy as np

from common.compression import indices
from common.compression.codec import checked_length, flat, largest, size_of
from common.compression.int8 import level_of, quantised, scale_of
from common.compression.topk import TopK, left_out, scattered, strongest, within
from common.model.weights import Shapes, Weights


class TopKInt8(TopK):
    """Keeps a share of the values, to 127 levels of the largest."""

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """The positions, a scale, then a byte for each value that is kept."""
        row = flat(values)
        kept = strongest(row, self.share)
        scale = scale_of(row[kept])
        codes = quantised(row[kept], scale, rng)
        return indices.pack(kept, len(row)) + bytes(np.array([scale], "<f4")) + bytes(codes)

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The kept values in their places, zeros elsewhere."""
        kept, rest = within(content, shapes, self.most_bytes(shapes))
        checked_length(rest, 4 + len(kept), "the kept values")
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.frombuffer(rest, np.int8, offset=4) * np.frombuffer(rest, "<f4", 1)
        return scattered(kept, found.astype(np.float32), shapes)

    def bound(self, values: Weights) -> float:
        """The largest magnitude that is left out, or one level."""
        return max(left_out(values, self.share), level_of(largest(values)))

    def most_bytes(self, shapes: Shapes) -> int:
        """If every value were kept."""
        size = size_of(shapes)
        return indices.most_bytes(size) + 4 + size
