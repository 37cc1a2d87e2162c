"""`lowrank`: each matrix as the product of two thin ones, P Q^T; vectors and small ones in half precision.

Source: Vogels et al. 2019 (PowerSGD), algorithm 1. There one power iteration starts from the last step's Q;
here nothing is kept between updates, so there are several, from a drawn one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import CompressionError, size_of
from common.compression.float16 import HALF_STEP, LARGEST, MIN_STEP, halves
from common.model.weights import Shapes, Weights

MAX_RANK = 4
ITERATIONS = 3


class LowRank:
    """Keeps the strongest directions of each matrix.

    Args:
        rank: How many, 1 to 4. Only encoding needs it.
    """

    unbiased = False

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """The rank in a byte; then of each array P and Q, or all of its values, as float16."""
        found = [bytes([self._rank])]
        for name in sorted(values):
            array = np.asarray(values[name], np.float32)
            if _is_thin(array.shape, self._rank):
                found += [halves(factor).tobytes() for factor in _factors(array, self._rank, rng)]
            else:
                found.append(halves(array).tobytes())
        return b"".join(found)

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The products, summed one direction after the other, so that every machine rounds alike."""
        rank = content[0] if content else 0
        if not 1 <= rank <= MAX_RANK:
            raise CompressionError(f"its rank is {rank}, expected 1 to {MAX_RANK}")
        expected = 1 + 2 * sum(_stored(shape, rank) for shape in shapes.values())
        if len(content) != expected:
            raise CompressionError(f"rank {rank} has {len(content)} bytes, expected {expected}")
        row = np.frombuffer(content, "<f2", offset=1).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            found = dict(_decoded(row, shapes, rank))
        return {name: found[name] for name in shapes}

    def bound(self, values: Weights) -> float:
        """The norm of the largest array, as the product is a projection of it; or the error of float16."""
        norms = [float(np.linalg.norm(a.astype(np.float64))) for a in values.values() if a.size]
        most = max(norms, default=0.0)
        # P has up to 2 ** 11 rows a step of float16 in each entry; 1 % covers any model that fits in memory.
        return 1.01 * most + MIN_STEP + min(most, LARGEST) * HALF_STEP

    def most_bytes(self, shapes: Shapes) -> int:
        """Never more than two a value, and the rank."""
        return 1 + 2 * size_of(shapes)


def _is_thin(shape: tuple[int, ...], rank: int) -> bool:
    """Whether an array is a matrix that two factors of this rank are smaller than."""
    return len(shape) == 2 and rank * sum(shape) < shape[0] * shape[1]


def _stored(shape: tuple[int, ...], rank: int) -> int:
    """Values that an array of this shape is stored as."""
    return rank * sum(shape) if _is_thin(shape, rank) else size_of({"": shape})


def _factors(
    matrix: NDArray[np.float32], rank: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P (rows, rank), orthonormal, and Q (columns, rank), such that P Q^T is near the matrix."""
    whole = matrix.astype(np.float64)
    q = rng.standard_normal((matrix.shape[1], rank))
    for _ in range(ITERATIONS):
        p = np.linalg.qr(whole @ q)[0]
        q = whole.T @ p
    return p, q


def _decoded(
    row: NDArray[np.float32], shapes: Shapes, rank: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    start = 0
    for name in sorted(shapes):
        shape = shapes[name]
        stored = row[start : start + _stored(shape, rank)]
        start += len(stored)
        if not _is_thin(shape, rank):
            yield name, stored.reshape(shape)
            continue
        p, q = np.split(stored, [rank * shape[0]])
        p, q = p.reshape(shape[0], rank), q.reshape(shape[1], rank)
        product = np.zeros(shape, np.float32)
        for direction in range(rank):
            product += np.outer(p[:, direction], q[:, direction])
        yield name, product
