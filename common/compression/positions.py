"""Ascending positions of values as bytes, in the shorter of two encodings.

The first is a Golomb-Rice code of the distances between neighbours, less one, which is within 2 % of the
entropy if values are kept independently of each other. It holds the low `width` bits of each distance; then,
for each, as many zeros as the value of the bits above, and a one. The second is a bitmap.

Sources: Golomb 1966; Rice and Plaunt 1971; for updates, Sattler et al. 2019, algorithm 3.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import CompressionError

HEADER = struct.Struct("<BII")
"""The `width` or `BITMAP`, the number of positions, the number of bytes that follow."""

BITMAP = 255

Positions = NDArray[np.int64]
_Bits = NDArray[np.uint8]


def pack(positions: Positions, size: int) -> bytes:
    """Return ascending positions below `size` as bytes.

    >>> unpack(pack(np.array([2, 3, 900]), 1000), 1000)[0].tolist()
    [2, 3, 900]
    """
    gaps = np.diff(positions, prepend=-1) - 1
    lengths = [int((gaps >> width).sum()) + (width + 1) * len(gaps) for width in range(size.bit_length() + 1)]
    width = int(np.argmin(lengths))
    encoding = width if lengths[width] < size else BITMAP
    bits = _bitmap(positions, size) if encoding == BITMAP else _rice(gaps, width)
    body = np.packbits(bits).tobytes()
    return HEADER.pack(encoding, len(positions), len(body)) + body


def unpack(content: bytes, size: int) -> tuple[Positions, bytes]:
    """Return the positions of `pack`, and the bytes that follow them.

    Raises:
        CompressionError: the content does not start with ascending positions below `size`.
    """
    try:
        encoding, count, length = HEADER.unpack_from(content)
    except struct.error:
        raise CompressionError("positions are cut short") from None
    body, rest = content[HEADER.size : HEADER.size + length], content[HEADER.size + length :]
    if len(body) != length or count > size:
        raise CompressionError(f"{count} positions of {size}, {len(body)} bytes where {length} are claimed")
    if length > _bytes_of(size):
        raise CompressionError(f"positions have {length} bytes, a bitmap {_bytes_of(size)}")
    if encoding != BITMAP and encoding > size.bit_length():
        raise CompressionError(f"positions below {size} with {encoding} low bits")
    bits = np.unpackbits(np.frombuffer(body, np.uint8))
    positions = _from_bitmap(bits, size) if encoding == BITMAP else _from_rice(bits, count, encoding)
    if len(positions) != count or (count and positions[-1] >= size):
        raise CompressionError(f"{len(positions)} positions below {size}, expected {count}")
    return positions, rest


def max_bytes(size: int) -> int:
    """Return the length of the longest encoding of positions below `size`."""
    return HEADER.size + _bytes_of(size)


def _bytes_of(bits: int) -> int:
    return (bits + 7) // 8


def _rice(gaps: Positions, width: int) -> _Bits:
    low = (gaps[:, None] >> np.arange(width)) & 1
    high = np.zeros(int((gaps >> width).sum()) + len(gaps), np.uint8)
    high[np.cumsum((gaps >> width) + 1) - 1] = 1
    return np.concatenate([low.ravel().astype(np.uint8), high])


def _from_rice(bits: _Bits, count: int, width: int) -> Positions:
    low, high = bits[: count * width], bits[count * width :]
    ends = np.flatnonzero(high)
    if len(low) != count * width or len(ends) != count or len(high) - (ends[-1] + 1 if count else 0) >= 8:
        raise CompressionError("distances between positions are cut short, or followed by other bits")
    # Neither sum overflows: there are fewer than `size` bits, and a width has no more than `size` has.
    gaps = (np.diff(ends, prepend=-1) - 1) << width
    gaps += low.reshape(count, width) @ (np.int64(1) << np.arange(width))
    return np.cumsum(gaps + 1) - 1


def _bitmap(positions: Positions, size: int) -> _Bits:
    bits = np.zeros(size, np.uint8)
    bits[positions] = 1
    return bits


def _from_bitmap(bits: _Bits, size: int) -> Positions:
    if len(bits) != 8 * _bytes_of(size):
        raise CompressionError(f"a bitmap of {len(bits) // 8} bytes for {size} values")
    return np.flatnonzero(bits)
