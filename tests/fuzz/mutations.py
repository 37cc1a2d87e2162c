"""Mutations of packed messages, drawn from a seed: of their bytes, or of single fields in a sound packing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec

from common.compression.zstd import MAGIC, compress, decompress
from common.formats import bundle
from common.formats.bundle import BundleError
from common.protocol.wire import MAX_COMPRESSED_BYTES, PROTOCOL

EXTREMES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, 1e-320, 1e200, -1e308,
    math.nan, math.inf, -math.inf,
    "", "x", "\0", "\u202e", "x" * 70_000, b"", b"\xff" * 9, b"\0" * 80_000, [], [[]], {}, {"a": 1},
)  # fmt: skip
DEEP = 5000
"""Nesting of a list that no reader should follow."""


def mutated(content: bytes, draw: random.Random, earlier: list[bytes]) -> bytes:
    """Return a damaged form of a packed message; `earlier` are other messages of the same run."""
    kind: Callable[[bytes, random.Random], bytes] = draw.choice(
        (_bits, _cut, _longer, _noise, _field, _field, _field, _field, _field)
    )
    if draw.random() < 0.05 and earlier:
        return draw.choice(earlier)
    try:
        return kind(content, draw)
    except (msgspec.MsgspecError, BundleError, ValueError, OverflowError, TypeError, RecursionError):
        return _bits(content, draw)  # this mutation cannot be packed


def _bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(draw.choice((1, 4, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _longer(content: bytes, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.choice((1, 8, 4096)))


def _noise(_: bytes, draw: random.Random) -> bytes:
    first = draw.choice((b"", bytes([PROTOCOL]), bytes([PROTOCOL]) + MAGIC, MAGIC))
    return first + draw.randbytes(draw.choice((0, 3, 200, 5000)))


def _field(content: bytes, draw: random.Random) -> bytes:
    """Change one field, in a message that is packed as a sound one."""
    if content.startswith(bytes([PROTOCOL])):
        values = msgspec.msgpack.decode(_plain(content[1:]))
        return bytes([PROTOCOL]) + _squeezed(msgspec.msgpack.encode(changed(values, draw)))
    header, arrays = bundle.unpack(_plain(content))
    return _squeezed(bundle.pack(changed(header, draw), arrays))


def changed(value: Any, draw: random.Random) -> Any:
    """Return a value with one value in it replaced, removed, repeated, scaled or nested."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        if draw.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at, how = draw.randrange(len(value)), draw.random()
        if how < 0.05:
            return value[:at] + value[at + 1 :]
        if how < 0.1:
            return [*value, draw.choice((value[at], None, 1))]
        return [*value[:at], changed(value[at], draw), *value[at + 1 :]]
    if isinstance(value, bytes) and value and draw.random() < 0.7:
        return draw.choice((_bits, _cut, _longer))(value, draw)
    if isinstance(value, float) and draw.random() < 0.5:
        return value * draw.choice((-1.0, 1e-30, 3.0, 1e6, 1e30))
    if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.5:
        return value + draw.choice((-1, 1, 7, 10**6, -(10**6), 10**12))
    if draw.random() < 0.02:
        nested: Any = 1
        for _ in range(draw.choice((100, DEEP))):
            nested = [nested]
        return nested
    return draw.choice(EXTREMES)


def _plain(content: bytes) -> bytes:
    return decompress(content, MAX_COMPRESSED_BYTES) if content.startswith(MAGIC) else content


def _squeezed(content: bytes) -> bytes:
    return content if len(content) > MAX_COMPRESSED_BYTES else min(content, compress(content), key=len)
