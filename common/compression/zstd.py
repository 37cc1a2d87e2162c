"""Zstandard, for bytes from any source and as `+zstd` after another codec.

What is decompressed is never larger than the caller allows.
"""

from __future__ import annotations

import numpy as np
import zstandard

from common.compression.codec import Codec, CompressionError
from common.model.weights import Shapes, Weights

MAGIC = zstandard.FRAME_HEADER
LEVEL = 9
"""Above the default: updates are small and links slow, so that fewer bytes are worth some microseconds."""


class ZstdError(ValueError):
    """Bytes are not one whole Zstandard frame that may be decompressed."""


def compress(content: bytes) -> bytes:
    """Return one frame that holds `content` and its size.

    >>> decompress(compress(b"abc"), max_bytes=3)
    b'abc'
    """
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=False).compress(
        content
    )


def decompress(content: bytes, max_bytes: int) -> bytes:
    """Return the content of a frame, allocating at most `max_bytes` bytes for it.

    Raises:
        ZstdError: the frame is damaged, does not state its size, is larger, or is followed by other bytes.
    """
    try:
        size = zstandard.frame_content_size(content)
        if size < 0 or size > max_bytes:
            raise ZstdError(
                f"it holds {'unknown' if size < 0 else size} bytes, at most {max_bytes} are allowed"
            )
        result = zstandard.ZstdDecompressor().decompress(
            content, max_output_size=max_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ZstdError(str(error)) from error
    if len(result) != size:
        raise ZstdError(f"it states {size} bytes and holds {len(result)}")
    return result


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
