"""The interface of codecs, and the weights of a model as one row of values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.model.weights import Shapes, Weights

Flat = NDArray[np.float32]


class CompressionError(ValueError):
    """Bytes are not an encoding of weights of the expected shapes."""


class Codec(Protocol):
    """Turns an update into bytes and back, with a bounded loss.

    `tests/common/compression/test_contract.py` checks these obligations for every codec.
    """

    unbiased: bool
    """Whether the mean of many decodings is the update."""

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return the update as bytes.

        Args:
            values: The update; all values are finite.
            rng: Random numbers for codecs that round stochastically.
        """
        ...

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return the update as float32 arrays of these shapes. Equal bytes give equal bits on every machine.

        Values may be NaN or infinite if the bytes say so: admission checks that. Memory stays within a few
        copies of such arrays for any bytes.

        Raises:
            CompressionError: the bytes do not describe arrays of these shapes.
        """
        ...

    def max_error(self, values: Weights) -> float:
        """Return the largest error of a single value after encoding and decoding `values`."""
        ...

    def max_bytes(self, shapes: Shapes) -> int:
        """Return the length of the longest encoding of arrays of these shapes. Longer content is refused."""
        ...


def size_of(shapes: Shapes) -> int:
    """Return the number of values in all arrays together."""
    return sum(math.prod(shape) for shape in shapes.values())


def flatten(values: Weights) -> Flat:
    """Return all values in one row, sorted by the names of the arrays."""
    arrays = [np.asarray(values[name], np.float32).ravel() for name in sorted(values)]
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)


def array_slices(shapes: Shapes) -> Iterator[tuple[str, slice]]:
    """Yield each array's name and its slice of the row that `flatten` returns."""
    start = 0
    for name in sorted(shapes):
        end = start + math.prod(shapes[name])
        yield name, slice(start, end)
        start = end


def unflatten(row: Flat, shapes: Shapes) -> Weights:
    """Return the arrays of a row that `flatten` returned, in the order of `shapes`."""
    arrays = {name: row[part].reshape(shapes[name]) for name, part in array_slices(shapes)}
    return {name: arrays[name] for name in shapes}


def check_length(content: bytes, expected: int, what: str) -> None:
    """Check the length of content.

    Raises:
        CompressionError: it is longer or shorter than expected.
    """
    if len(content) != expected:
        raise CompressionError(f"{what} has {len(content)} bytes, expected {expected}")


def max_magnitude(values: Weights) -> float:
    """Return the largest magnitude of any value."""
    return max((float(np.abs(array).max()) for array in values.values() if array.size), default=0.0)
