"""`topk`: only the values of largest magnitude, over all arrays together, with their positions.

The encoding side must keep what is omitted (`codec.Feedback`).
Sources: Aji and Heafield 2017; Lin et al. 2018 (Deep Gradient Compression).
"""

from __future__ import annotations

import math

import numpy as np

from common.compression import positions
from common.compression.codec import CompressionError, check_length
from common.compression.positions import Positions
from common.model.weights import Flat, Shapes, Weights, flatten, size_of, unflatten


class TopK:
    """Keeps a share of the values exactly.

    Args:
        share: Share of all values that are kept, above 0 and at most 1; at least one value is kept. Decoding
            does not need it.
    """

    unbiased = False

    def __init__(self, share: float) -> None:
        self.share = share

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return the positions, then four bytes for each value that is kept."""
        row = flatten(values)
        kept = largest_positions(row, self.share)
        return positions.pack(kept, len(row)) + row[kept].astype("<f4").tobytes()

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return the kept values at their positions, zeros elsewhere."""
        kept, rest = read_positions(content, shapes, self.max_bytes(shapes))
        check_length(rest, 4 * len(kept), "the kept values")
        return scatter(kept, np.frombuffer(rest, "<f4"), shapes)

    def max_error(self, values: Weights) -> float:
        """Return the largest magnitude that is omitted."""
        row = flatten(values)
        omitted = np.delete(np.abs(row), largest_positions(row, self.share))
        return float(omitted.max()) if omitted.size else 0.0

    def max_bytes(self, shapes: Shapes) -> int:
        """Return the length of an encoding that keeps every value."""
        size = size_of(shapes)
        return positions.max_bytes(size) + 4 * size


def largest_positions(row: Flat, share: float) -> Positions:
    """Return the ascending positions of the values of largest magnitude."""
    count = min(len(row), max(1, math.ceil(share * len(row) - 1e-9)))
    if not count:
        return np.empty(0, np.int64)
    largest = np.argpartition(np.abs(row), len(row) - count)[len(row) - count :]
    return np.sort(largest).astype(np.int64)


def read_positions(content: bytes, shapes: Shapes, max_bytes: int) -> tuple[Positions, bytes]:
    """Return the positions at the start of `content`, and the rest of it.

    Raises:
        CompressionError: the content is longer than `max_bytes`, or does not start with positions.
    """
    if len(content) > max_bytes:
        raise CompressionError(f"{len(content)} bytes, expected at most {max_bytes}")
    return positions.unpack(content, size_of(shapes))


def scatter(kept: Positions, values: Flat, shapes: Shapes) -> Weights:
    """Return arrays of zeros with the values at their positions."""
    row = np.zeros(size_of(shapes), np.float32)
    row[kept] = values
    return unflatten(row, shapes)
