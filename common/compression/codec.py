"""The interface of codecs, and error feedback, which sends later what a codec omits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.model.weights import Shapes, Weights, add, subtract


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


def check_length(content: bytes, expected: int, what: str) -> None:
    """Check the length of content.

    Raises:
        CompressionError: it is longer or shorter than expected.
    """
    if len(content) != expected:
        raise CompressionError(f"{what} has {len(content)} bytes, expected {expected}")


@dataclass(frozen=True, eq=False)
class Feedback:
    """Error feedback of one encoding side: what an encoding omits is added to the next update.

    With d the true update and s its decoding on the other side, the error becomes e' = e + d - s. If the
    update is then rejected or lost, s - d is added back, so that the error is as it was before. At any time
    the sum of s over the updates that were not lost, plus the error, is the sum of their d.

    Sources: Seide et al. 2014, section 3; Karimireddy et al. 2019, algorithm 1; Stich et al. 2018.
    """

    error: Weights = field(default_factory=dict)
    """The values omitted so far; empty if none were."""
    pending: Mapping[int, Weights] = field(default_factory=dict)
    """s - d of updates whose outcome is not known yet, by serial number."""

    def corrected(self, update: Weights) -> Weights:
        """Return the values to encode: the update plus the error."""
        return add(self.error, update) if self.error else update

    def after_encoding(self, serial: int, update: Weights, decoded: Weights, max_pending: int) -> Feedback:
        """Return the feedback once an update was encoded.

        Args:
            serial: The update's serial number.
            update: The true update, without the error.
            decoded: What the other side decodes.
            max_pending: Updates that stay pending: the newest.
        """
        pending = {**self.pending, serial: subtract(decoded, update)}
        error = subtract(self.corrected(update), decoded)
        return Feedback(error, {n: pending[n] for n in sorted(pending)[-max_pending:]})

    def settled(self, used: Collection[int], waiting: Collection[int]) -> Feedback:
        """Return the feedback once the outcome of pending updates is known.

        Args:
            used: Serial numbers of updates that were aggregated.
            waiting: Serial numbers of updates that wait for aggregation; all others are lost.
        """
        error = self.error
        for serial, surplus in self.pending.items():
            if serial not in used and serial not in waiting:
                error = add(error, surplus) if error else surplus
        return Feedback(error, {n: s for n, s in self.pending.items() if n in waiting})
