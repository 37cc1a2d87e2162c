"""`+zstd`: the output of another codec, compressed by Zstandard."""

from __future__ import annotations

import numpy as np

from common.compression.codec import Codec, CompressionError
from common.formats.zstd import ZstdError, compress, decompress
from common.model.weights import Shapes, Weights

MAX_FRAME_BYTES = 64
"""A Zstandard frame of incompressible content is longer than it by at most this, and 1/256 of its length."""


class ZstdCodec:
    """Another codec, followed by Zstandard."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner
        self.unbiased = inner.unbiased

    def encode(self, values: Weights, rng: np.random.Generator) -> bytes:
        """Return a frame that holds the inner codec's output and its size."""
        return compress(self._inner.encode(values, rng))

    def decode(self, content: bytes, shapes: Shapes) -> Weights:
        """Return the inner codec's arrays. A frame may hold no more than that codec could have written."""
        if len(content) > self.max_bytes(shapes):
            raise CompressionError(f"{len(content)} bytes, expected at most {self.max_bytes(shapes)}")
        try:
            inner = decompress(content, self._inner.max_bytes(shapes))
        except ZstdError as error:
            raise CompressionError(f"Zstandard: {error}") from error
        return self._inner.decode(inner, shapes)

    def max_error(self, values: Weights) -> float:
        """Return the inner codec's largest error."""
        return self._inner.max_error(values)

    def max_bytes(self, shapes: Shapes) -> int:
        """Return the inner codec's longest encoding with a frame around it."""
        inner = self._inner.max_bytes(shapes)
        return inner + inner // 256 + MAX_FRAME_BYTES
