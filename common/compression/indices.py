"""Which values were kept: their positions as bytes, in whichever of two ways is shorter.

Positions are ascending. `RICE`: the distances from one to the next, less one, in a Golomb-Rice code, which is
within 2 % of the entropy where values are kept independently of each other. First the low `width` bits of
each distance; then, for each, as many zeros as the bits above say, and a one. `BITMAP`: a bit for each value.

Sources: Golomb 1966; Rice and Plaunt 1971; for updates, Sattler et al. 2019, algorithm 3.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import CompressionError

HEAD = struct.Struct("<BII")  # `width` or BITMAP, how many positions, how many bytes follow
BITMAP = 255

Positions = NDArray[np.int64]
_Bits = NDArray[np.uint8]


def pack(positions: Positions, size: int) -> bytes:
    """Ascending positions below `size` as bytes.

    >>> unpack(pack(np.array([2, 3, 900]), 1000), 1000)[0].tolist()
    [2, 3, 900]
    """
    gaps = np.diff(positions, prepend=-1) - 1
    lengths = [int((gaps >> width).sum()) + (width + 1) * len(gaps) for width in range(size.bit_length() + 1)]
    width = int(np.argmin(lengths))
    way = width if lengths[width] < size else BITMAP
    bits = _bitmap(positions, size) if way == BITMAP else _rice(gaps, width)
    body = np.packbits(bits).tobytes()
    return HEAD.pack(way, len(positions), len(body)) + body


def unpack(content: bytes, size: int) -> tuple[Positions, bytes]:
    """The positions of `pack`, and the bytes that follow them.

    Raises:
        CompressionError: they are not ascending positions below `size`.
    """
    try:
        way, count, length = HEAD.unpack_from(content)
    except struct.error:
        raise CompressionError("positions are cut short") from None
    body, rest = content[HEAD.size : HEAD.size + length], content[HEAD.size + length :]
    if len(body) != length or count > size:
        raise CompressionError(f"{count} positions of {size}, {len(body)} bytes where {length} are claimed")
    if length > _bytes_of(size):
        raise CompressionError(f"positions have {length} bytes, a bitmap {_bytes_of(size)}")
    if way != BITMAP and way > size.bit_length():
        raise CompressionError(f"positions below {size} with {way} low bits")
    bits = np.unpackbits(np.frombuffer(body, np.uint8))
    positions = _from_bitmap(bits, size) if way == BITMAP else _from_rice(bits, count, way)
    if len(positions) != count or (count and positions[-1] >= size):
        raise CompressionError(f"{len(positions)} positions below {size}, expected {count}")
    return positions, rest


def most_bytes(size: int) -> int:
    """The longest form of any positions below `size`."""
    return HEAD.size + _bytes_of(size)


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
        raise CompressionError("distances between positions are cut short, or followed by something")
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
