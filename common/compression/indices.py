"""Which values were kept: their positions as bytes, in whichever of two ways is shorter.

Positions are ascending. `GAPS`: the distance from one to the next, less one, seven bits a byte, the lowest
first, the highest bit set on all but a number's last byte (varint). `BITMAP`: a bit for each value.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from common.compression.codec import CompressionError

GAPS, BITMAP = 0, 1
HEAD = struct.Struct("<BII")  # the way, how many positions, how many bytes follow
_MOST_DIGITS = 5
"""Of seven bits: enough for any position below 2 ** 32."""

Positions = NDArray[np.int64]


def pack(positions: Positions, size: int) -> bytes:
    """Ascending positions below `size` as bytes.

    >>> unpack(pack(np.array([2, 3, 900]), 1000), 1000)[0].tolist()
    [2, 3, 900]
    """
    gaps = _varints(np.diff(positions, prepend=-1) - 1)
    way, body = (GAPS, gaps) if len(gaps) < (size + 7) // 8 else (BITMAP, _bitmap(positions, size))
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
    match way:
        case 0:
            positions = _from_gaps(body, count)
        case 1:
            positions = _from_bitmap(body, size)
        case _:
            raise CompressionError(f"positions are coded in way {way}")
    if len(positions) != count or (count and positions[-1] >= size):
        raise CompressionError(f"{len(positions)} positions below {size}, expected {count}")
    return positions, rest


def most_bytes(size: int) -> int:
    """The longest form of any positions below `size`."""
    return HEAD.size + (size + 7) // 8


def _varints(numbers: Positions) -> bytes:
    digits = [(numbers >> (7 * place)) & 127 for place in range(_MOST_DIGITS)]
    more = [numbers >> (7 * (place + 1)) > 0 for place in range(_MOST_DIGITS)]
    table = np.stack([d | (m.astype(np.int64) << 7) for d, m in zip(digits, more, strict=True)], axis=1)
    used = np.concatenate([np.ones((len(numbers), 1), np.bool_), np.stack(more[:-1], axis=1)], axis=1)
    return bytes(table[used].astype(np.uint8))


def _from_gaps(body: bytes, count: int) -> Positions:
    digits = np.frombuffer(body, np.uint8)
    last = digits < 128
    if int(last.sum()) != count or (len(digits) and not last[-1]):
        raise CompressionError("gaps between positions are cut short")
    if not count:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if int((ends - starts).max()) >= _MOST_DIGITS:
        raise CompressionError("a gap between positions is too long")
    places = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    gaps = np.add.reduceat((digits & 127).astype(np.int64) << (7 * places), starts)
    # Below 2 ** 35 each, and fewer than bytes that came: no sum overflows and comes back as a small position.
    return np.cumsum(gaps + 1) - 1


def _bitmap(positions: Positions, size: int) -> bytes:
    bits = np.zeros(size, np.bool_)
    bits[positions] = True
    return np.packbits(bits).tobytes()


def _from_bitmap(body: bytes, size: int) -> Positions:
    if len(body) != (size + 7) // 8:
        raise CompressionError(f"a bitmap of {len(body)} bytes for {size} values")
    return np.flatnonzero(np.unpackbits(np.frombuffer(body, np.uint8)))
