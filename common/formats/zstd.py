"""Zstandard for bytes from anybody: what comes out is never larger than the caller allows."""

from __future__ import annotations

from functools import cache

import zstandard

MAGIC = zstandard.FRAME_HEADER
LEVEL = 9
"""Updates are small and links slow: worth some microseconds more than the default."""


class ZstdError(ValueError):
    """Bytes are not one whole Zstandard frame that may be unpacked."""


def compress(content: bytes, words: bytes = b"") -> bytes:
    """One frame that says its size, and holds `content`.

    Args:
        content: Any bytes.
        words: Text that both sides have, and that need not be sent where `content` has the same.

    >>> decompress(compress(b"abc"), most=3)
    b'abc'
    """
    return zstandard.ZstdCompressor(
        level=LEVEL, dict_data=_dictionary(words), write_content_size=True, write_checksum=False
    ).compress(content)


def decompress(content: bytes, most: int, words: bytes = b"") -> bytes:
    """What a frame of `squeeze` holds, allocating at most `most` bytes.

    With `words`, frames that were squeezed without them are opened too.

    Raises:
        ZstdError: it is damaged, does not say its size, would be larger, or is followed by something.
    """
    try:
        size = zstandard.frame_content_size(content)
        if size < 0 or size > most:
            raise ZstdError(f"it holds {'unknown' if size < 0 else size} bytes, at most {most} are allowed")
        found = zstandard.ZstdDecompressor(dict_data=_dictionary(words)).decompress(
            content, max_output_size=most, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ZstdError(str(error)) from error
    if len(found) != size:
        raise ZstdError(f"it says {size} bytes and holds {len(found)}")
    return found


@cache
def _dictionary(words: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(words, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if words else None
