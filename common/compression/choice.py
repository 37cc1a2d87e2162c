"""Codecs by name and parameter: `none`, `ternary:0.1`, `lowrank:2`, `sign`; and `+zstd` after any of them.

A name with its parameter is what settings become and what travels: `Task.codec`, `Block.codec`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection

import msgspec
import numpy as np

from common.bounds import CodecName
from common.compression.codec import Codec, CompressionError
from common.compression.float16 import Float16
from common.compression.float32 import Float32
from common.compression.int8 import Int8
from common.compression.lowrank import MAX_RANK, LowRank
from common.compression.sign import Sign
from common.compression.squeezed import ZstdCodec
from common.compression.ternary import Ternary
from common.compression.topk import TopK
from common.compression.topk_int8 import TopKInt8
from common.model.weights import Shapes, Weights

NONE, ZSTD = "none", "+zstd"
PLAIN: dict[str, Callable[[], Codec]] = {NONE: Float32, "float16": Float16, "int8": Int8, "sign": Sign}
SHARED: dict[str, Callable[[float], Codec]] = {"topk": TopK, "topk_int8": TopKInt8, "ternary": Ternary}
"""Codecs whose parameter is the share of values that they keep."""
RANKED: dict[str, Callable[[int], Codec]] = {"lowrank": LowRank}
NAMES = (*PLAIN, *SHARED, *RANKED)

DENSE = (NONE, "ternary")
"""Nothing is left in them for Zstandard to squeeze: a frame would only make them longer."""

STATELESS = (NONE, "float16", "int8")
"""Every value travels, so they are good without error feedback: for clients that keep nothing."""

FALLBACKS = ("int8", "float16", NONE)
"""What a client is asked for that lacks the codec that was chosen, the first one that it has."""


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An encoded update: the name of its codec, and the bytes."""

    codec: CodecName
    content: bytes

    @classmethod
    def of(cls, codec: str, values: Weights, rng: np.random.Generator) -> Block:
        """Encode the values.

        Raises:
            CompressionError: there is no such codec.
        """
        return cls(codec, named(codec).encode(values, rng))

    def decoded(self, shapes: Shapes) -> Weights:
        """Return the values.

        Raises:
            CompressionError: there is no such codec, or these are not its bytes.
        """
        return named(self.codec).decode(self.content, shapes)


def named(spec: str) -> Codec:
    """The codec of a name with its parameter.

    Raises:
        CompressionError: there is none, or the parameter is out of its range.

    >>> named("topk_int8:0.01+zstd").unbiased, named("int8").unbiased
    (False, True)
    """
    plain = spec.removesuffix(ZSTD)
    name, _, parameter = plain.partition(":")
    try:
        if name in PLAIN and not parameter:
            codec = PLAIN[name]()
        elif name in SHARED and 0 < float(parameter) <= 1:
            codec = SHARED[name](float(parameter))
        elif name in RANKED and 1 <= int(parameter) <= MAX_RANK:
            codec = RANKED[name](int(parameter))
        else:
            raise ValueError
    except ValueError:
        raise CompressionError(f"there is no codec '{spec[:40]}'; there are {', '.join(NAMES)}") from None
    return ZstdCodec(codec) if plain != spec else codec


def name_of(spec: str) -> str:
    """The name without parameter and `+zstd`."""
    return spec.removesuffix(ZSTD).partition(":")[0]


def spec_of(name: str, share: float, rank: int, zstd: bool) -> str:
    """A name with its parameter.

    >>> spec_of("topk", 0.02, 1, True), spec_of("ternary", 0.1, 1, True)
    ('topk:0.02+zstd', 'ternary:0.1')
    """
    parameter = f":{share:g}" if name in SHARED else f":{rank}" if name in RANKED else ""
    return f"{name}{parameter}{ZSTD if zstd and name not in DENSE else ''}"


def supported(spec: str, names: Collection[str]) -> str:
    """The codec, or the first fallback among the names that the other side has said."""
    if name_of(spec) in names:
        return spec
    zstd = ZSTD if spec.endswith(ZSTD) else ""
    return next((n + zstd * (n != NONE) for n in FALLBACKS if n in names), NONE)


FAST_S = 0.05
"""A whole model that takes no longer than this on its link is not worth an error."""

LARGE = 100_000
"""Parameters of models from which on half the share is enough, as `make bench-wire` measures."""


def automatic(parameters: int, bytes_per_s: float | None, share: float, zstd: bool) -> str:
    """A codec by the model's size and the link's measured speed (None: not yet known).

    Lossless where the whole update is sent in an instant; rounded, which nobody notices, where a quarter is;
    else the directions of the strongest values.

    >>> automatic(7_000, 1e7, 0.08, True), automatic(500_000, 1e5, 0.08, True)
    ('none', 'ternary:0.04')
    """
    seconds = math.inf if bytes_per_s is None else 4 * parameters / bytes_per_s
    if seconds <= FAST_S:
        return NONE
    name = "int8" if seconds <= 4 * FAST_S else "ternary"
    return spec_of(name, share if parameters < LARGE else share / 2, 1, zstd)


def rng_of(*parts: object) -> np.random.Generator:
    """Chance that can be told again: seeded by what it is used for."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))
