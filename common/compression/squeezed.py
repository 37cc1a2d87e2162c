"""`+zstd`: what another codec makes, squeezed without loss."""

from __future__ import annotations

import numpy as np

from common.compression.codec import Codec, CompressionError
from common.formats.zstd import ZstdError, compress, decompress
from common.model.weights import Shapes, Weights

FRAME_BYTES = 64
"""By how much a frame of Zstandard is longer than what it could not squeeze, and 1/256 of that."""


class ZstdCodec:
    """Another codec, followed by Zstandard."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner
        self.unbiased = inner.unbiased

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """A frame that says how large its content is."""
        return compress(self._inner.encode(values, rng))

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """As the inner codec; no frame may hold more than that codec could have made."""
        if len(content) > self.most_bytes(shapes):
            raise CompressionError(f"{len(content)} bytes, at most {self.most_bytes(shapes)} can be needed")
        try:
            inner = decompress(content, self._inner.most_bytes(shapes))
        except ZstdError as error:
            raise CompressionError(f"Zstandard: {error}") from error
        return self._inner.decode(inner, shapes)

    def bound(self, values: Weights) -> float:
        """Of the inner codec."""
        return self._inner.bound(values)

    def most_bytes(self, shapes: Shapes) -> int:
        """Of the inner codec, and a frame around it."""
        inner = self._inner.most_bytes(shapes)
        return inner + inner // 256 + FRAME_BYTES
