"""`topk`: only the values of largest magnitude, over all arrays together, with their positions.

What is left out must be remembered by whoever encodes (`feedback`). Sources: Aji and Heafield 2017; Lin et
al. 2018 (Deep Gradient Compression).
"""

from __future__ import annotations

import math

import numpy as np

from common.compression import indices
from common.compression.codec import CompressionError, Flat, arrays, checked_length, flat, size_of
from common.compression.indices import Positions
from common.model.weights import Shapes, Weights


class TopK:
    """Keeps a share of the values, exactly.

    Args:
        share: Of all values that are kept, above 0 and at most 1; at least one is. Only encoding needs it.
    """

    unbiased = False

    def __init__(self, share: float) -> None:
        self.share = share

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """The positions, then four bytes for each value that is kept."""
        row = flat(values)
        kept = strongest(row, self.share)
        return indices.pack(kept, len(row)) + row[kept].astype("<f4").tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The kept values in their places, zeros elsewhere."""
        kept, rest = within(content, shapes, self.most_bytes(shapes))
        checked_length(rest, 4 * len(kept), "the kept values")
        return scattered(kept, np.frombuffer(rest, "<f4"), shapes)

    def bound(self, values: Weights) -> float:
        """The largest magnitude that is left out."""
        return left_out(values, self.share)

    def most_bytes(self, shapes: Shapes) -> int:
        """If every value were kept."""
        size = size_of(shapes)
        return indices.most_bytes(size) + 4 * size


def strongest(row: Flat, share: float) -> Positions:
    """Ascending positions of the values of largest magnitude."""
    count = min(len(row), max(1, math.ceil(share * len(row) - 1e-9)))
    found = np.argpartition(np.abs(row), len(row) - count)[len(row) - count :] if count else np.empty(0)
    return np.sort(found).astype(np.int64)


def left_out(values: Weights, share: float) -> float:
    """The largest magnitude that `strongest` does not choose."""
    row = flat(values)
    others = np.delete(np.abs(row), strongest(row, share))
    return float(others.max()) if others.size else 0.0


def within(content: bytes, shapes: Shapes, most: int) -> tuple[Positions, bytes]:
    """The positions that `content` begins with, and the rest of it.

    Raises:
        CompressionError: it is longer than any encoding, or they are not positions of values.
    """
    if len(content) > most:
        raise CompressionError(f"{len(content)} bytes, at most {most} can be needed")
    return indices.unpack(content, size_of(shapes))


def scattered(kept: Positions, found: Flat, shapes: Shapes) -> Weights:
    """Arrays of zeros with the found values in their places."""
    row = np.zeros(size_of(shapes), np.float32)
    row[kept] = found
    return arrays(row, shapes)
