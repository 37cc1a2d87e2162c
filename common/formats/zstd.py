"""Zstandard for bytes from any source: the result is never larger than the caller allows."""

from __future__ import annotations

import zstandard

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
