"""What every codec promises, and the arrays of a model as one row of values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.model.weights import Shapes, Weights

Flat = NDArray[np.float32]


class CompressionError(ValueError):
    """Bytes are not what a codec makes for a model of these shapes; says what is wrong."""


class Codec(Protocol):
    """Turns an update into bytes and back, losing what it says it may lose.

    `tests/common/compression/test_contract.py` holds every codec to this.
    """

    unbiased: bool
    """Whether the mean of many decodings is the update."""

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """The update as bytes. All values must be finite; `rng` rounds where the codec does so by chance."""
        ...

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """The update, as float32 arrays of these shapes. Equal bytes give equal bits on every machine.

        Its values may be anything that float32 can hold, NaN and infinity included, if the bytes say so:
        whether they can be used is for the gate to say.

        Raises:
            CompressionError: these bytes do not describe arrays of these shapes. Any bytes at all give this
                or a value, within memory for a few copies of such arrays.
        """
        ...

    def bound(self, values: Weights) -> float:
        """The largest error of any single value that decoding an encoding of `values` can have."""
        ...

    def most_bytes(self, shapes: Shapes) -> int:
        """The longest encoding of arrays of these shapes: more bytes are refused unread."""
        ...


def size_of(shapes: Shapes) -> int:
    """Values in all arrays together."""
    return sum(math.prod(shape) for shape in shapes.values())


def flat(values: Weights) -> Flat:
    """All values in one row, arrays by name."""
    arrays = [np.asarray(values[name], np.float32).ravel() for name in sorted(values)]
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)


def parts(shapes: Shapes) -> Iterator[tuple[str, slice]]:
    """Where the values of each array stand in the row."""
    start = 0
    for name in sorted(shapes):
        end = start + math.prod(shapes[name])
        yield name, slice(start, end)
        start = end


def arrays(row: Flat, shapes: Shapes) -> Weights:
    """The arrays of a row, in the order of `shapes`."""
    found = {name: row[part].reshape(shapes[name]) for name, part in parts(shapes)}
    return {name: found[name] for name in shapes}


def checked_length(content: bytes, expected: int, what: str) -> None:
    """Refuse content that is not exactly so long.

    Raises:
        CompressionError: it is longer or shorter.
    """
    if len(content) != expected:
        raise CompressionError(f"{what} has {len(content)} bytes, expected {expected}")


def largest(values: Weights) -> float:
    """The largest magnitude of any value."""
    return max((float(np.abs(array).max()) for array in values.values() if array.size), default=0.0)
