"""Codecs by name and parameter: `none`, `int8`, `topk:0.02`, `ternary:0.1`; `+zstd` may follow.

A name with its parameter is a spec. Settings become specs; `TaskOptions.codec` and `Block.codec` hold specs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection

import msgspec
import numpy as np

from common.bounds import CodecName
from common.compression.codec import Codec, CompressionError
from common.compression.float32 import Float32
from common.compression.int8 import Int8
from common.compression.ternary import Ternary
from common.compression.topk import TopK
from common.compression.zstd import ZstdCodec
from common.model.weights import Shapes, Weights

NONE, ZSTD = "none", "+zstd"
"""The spec without loss, and the suffix that adds Zstandard."""
PLAIN: dict[str, Callable[[], Codec]] = {NONE: Float32, "int8": Int8}
SPARSE: dict[str, Callable[[float], Codec]] = {"topk": TopK, "ternary": Ternary}
"""Codecs whose parameter is the share of values that they keep."""

CODEC_NAMES = (*PLAIN, *SPARSE)

STATELESS_CODECS = tuple(PLAIN)
"""Codecs that send every value: they need no error feedback, so clients without state can use them."""

INCOMPRESSIBLE = (NONE, "ternary")
"""Codecs whose output Zstandard does not make shorter."""

FALLBACKS = ("int8", NONE)
"""Codecs for a client that lacks the chosen one: the first that it has."""

FAST_S = 0.05
"""`auto` sends a model without loss if its link needs no more seconds than this."""

LARGE_MODEL = 100_000
"""Number of parameters from which half the share is enough, as `make bench-wire` measures."""


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An encoded update: the spec of its codec, and the bytes."""

    codec: CodecName
    content: bytes

    @classmethod
    def of(cls, codec: str, values: Weights, rng: np.random.Generator) -> Block:
        """Encode the values.

        Raises:
            CompressionError: there is no such codec.
        """
        return cls(codec, find_codec(codec).encode(values, rng))

    def decoded(self, shapes: Shapes) -> Weights:
        """Return the values.

        Raises:
            CompressionError: there is no such codec, or the bytes are not its encoding of these shapes.
        """
        return find_codec(self.codec).decode(self.content, shapes)


def find_codec(spec: str) -> Codec:
    """Return the codec of a spec.

    Raises:
        CompressionError: there is none, or its parameter is out of range.

    >>> find_codec("topk:0.01+zstd").unbiased, find_codec("int8").unbiased
    (False, True)
    """
    plain = spec.removesuffix(ZSTD)
    name, _, parameter = plain.partition(":")
    try:
        if name in PLAIN and not parameter:
            codec = PLAIN[name]()
        elif name in SPARSE and 0 < float(parameter) <= 1:
            codec = SPARSE[name](float(parameter))
        else:
            raise ValueError
    except ValueError:
        known = ", ".join(CODEC_NAMES)
        raise CompressionError(f"there is no codec '{spec[:40]}'; there are {known}") from None
    return ZstdCodec(codec) if plain != spec else codec


def codec_name(spec: str) -> str:
    """Return the name in a spec."""
    return spec.removesuffix(ZSTD).partition(":")[0]


def codec_spec(name: str, share: float, zstd: bool) -> str:
    """Return the spec of a codec; `+zstd` is added only where it makes the output shorter.

    >>> codec_spec("topk", 0.02, True), codec_spec("ternary", 0.1, True)
    ('topk:0.02+zstd', 'ternary:0.1')
    """
    parameter = f":{share:g}" if name in SPARSE else ""
    return f"{name}{parameter}{ZSTD if zstd and name not in INCOMPRESSIBLE else ''}"


def supported_spec(spec: str, names: Collection[str]) -> str:
    """Return the spec if its codec is among the names that the other side supports, else a fallback."""
    if codec_name(spec) in names:
        return spec
    zstd = ZSTD if spec.endswith(ZSTD) else ""
    return next((n + zstd * (n != NONE) for n in FALLBACKS if n in names), NONE)


def automatic_spec(parameters: int, bytes_per_s: float | None, share: float, zstd: bool) -> str:
    """Return the spec for `auto`: without loss on fast links, rounded or sparse on slow ones.

    Args:
        parameters: Number of parameters of the model.
        bytes_per_s: Measured speed of the link; None if it is not known yet, which counts as slow.
        share: Share of values that a sparse codec keeps of a model that is not large.
        zstd: Whether Zstandard follows.

    >>> automatic_spec(7_000, 1e7, 0.08, True), automatic_spec(500_000, 1e5, 0.08, True)
    ('none', 'ternary:0.04')
    """
    seconds = math.inf if bytes_per_s is None else 4 * parameters / bytes_per_s
    if seconds <= FAST_S:
        return NONE
    name = "int8" if seconds <= 4 * FAST_S else "ternary"
    return codec_spec(name, share if parameters < LARGE_MODEL else share / 2, zstd)


def seeded_rng(*parts: object) -> np.random.Generator:
    """Return random numbers that are the same for the same parts."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))
