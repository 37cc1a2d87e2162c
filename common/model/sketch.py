"""A sketch of a distribution of scores: a few kilobytes, mergeable, accurate for the largest scores."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Self

import numpy as np
from datasketches import req_floats_sketch
from numpy.typing import NDArray

SIZE = 32
"""Parameter k of the sketch: about 0.3 % relative error of 1 - rank; 10 kB for a hundred thousand scores."""
_MOST_QUANTILES = 1_000_000
"""Most scores that a sketch is made anew of: more take seconds, and say no more of the tail."""
_PIECE = 1024
"""Scores added at a time: the library holds Python's global lock, and other threads must not wait long."""

_PREAMBLE = struct.Struct(
    "<BBBBHBB"
)  # preamble size in integers, version, family, flags, k, levels, raw items
_WHOLE = struct.Struct("<Qff")  # number of scores, smallest, largest; only with several levels
_LEVEL = struct.Struct("<QfBBHI")  # state, section size, level, sections, padding, number of items
_VERSION, _FAMILY = 1, 17
_EMPTY, _HIGH_RANKS, _RAW, _SORTED = 4, 8, 16, 32
_MAX_RAW = 4
_RAW_PADDING = 20
"""Unused bytes that the writer leaves after two to four raw items."""
_MAX_LEVELS = 40
_NOT_FINITE = "holds a score that is not finite"


class SketchError(ValueError):
    """Bytes are not a sketch of scores, a score is infinite, or a sketch is empty."""


class ScoreSketch:
    """A quantile sketch of scores, most accurate for high ranks: a REQ sketch of Apache DataSketches.

    Source: Cormode, Karnin, Liberty, Thaler, Vesely 2021, "Relative Error Streaming Quantiles".

    >>> both = ScoreSketch.of(np.arange(50.0)).merge(ScoreSketch.of(np.arange(50.0, 100.0)))
    >>> both.count, both.quantile(0.98)
    (100, 98.0)
    """

    def __init__(self) -> None:
        self._sketch = req_floats_sketch(SIZE, True)
        self._packed: bytes | None = None

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> Self:
        """Sketch scores of shape (n,); NaN, the score of an event without a value, is left out."""
        sketch = cls()
        sketch.add(scores)
        return sketch

    @classmethod
    def merge_all(cls, parts: Iterable[ScoreSketch]) -> Self:
        """Return a sketch of the scores of all parts together."""
        merged = cls()
        for part in parts:
            merged._sketch.merge(part._sketch)
        return merged

    @property
    def count(self) -> int:
        """Number of scores that were added."""
        return int(self._sketch.n)

    def add(self, scores: NDArray[np.floating]) -> None:
        """Add scores of shape (n,); NaN, the score of an event without a value, is left out.

        Raises:
            SketchError: a score is infinite.
        """
        scores = scores[~np.isnan(scores)]
        if np.isinf(scores).any():
            raise SketchError("a score is infinite")
        self._packed = None
        whole = np.ascontiguousarray(scores, np.float32)
        for start in range(0, len(whole), _PIECE):
            self._sketch.update(whole[start : start + _PIECE])

    def bounded(self, count: float, largest: float) -> ScoreSketch:
        """Return the sketch of at most `count` of its scores, evenly spread, each at most `largest`.

        It is this sketch if both hold already. Else it is made anew of quantiles.

        >>> scores = ScoreSketch.of(np.arange(1000.0)).bounded(10, 800.0)
        >>> scores.count, scores.quantile(1.0)
        (10, 800.0)
        """
        if self.count <= count and (not self.count or self.quantile(1.0) <= largest):
            return self
        number = int(min(self.count, max(count, 1), _MOST_QUANTILES))
        ranks = (np.arange(number) + 0.5) / number
        scores = np.asarray(self._sketch.get_quantiles(ranks.tolist()), np.float32)
        return type(self).of(np.minimum(scores, np.float32(largest)))

    def merge(self, other: ScoreSketch) -> ScoreSketch:
        """Return a sketch of both sets of scores together."""
        return ScoreSketch.merge_all((self, other))

    def quantile(self, rank: float) -> float:
        """Return the score below which about this share of the scores lies; rank 1 gives the largest score.

        Raises:
            SketchError: the sketch is empty.
        """
        if not self.count:
            raise SketchError("an empty sketch has no quantiles")
        return float(self._sketch.get_quantile(rank))

    def distance(self, other: ScoreSketch) -> float:
        """Return the largest difference of the two distribution functions (Kolmogorov-Smirnov), 0 to 1.

        Raises:
            SketchError: a sketch is empty.

        >>> round(ScoreSketch.of(np.arange(100.0)).distance(ScoreSketch.of(np.arange(25.0, 125.0))), 2)
        0.25
        """
        ranks = np.linspace(0, 1, 101)
        points = sorted({s.quantile(float(rank)) for s in (self, other) for rank in ranks})
        own, others = (np.array(s._sketch.get_cdf(points, True)) for s in (self, other))
        return float(np.abs(own - others).max())

    def pack(self) -> bytes:
        """Return the sketch as bytes; the same bytes until scores are added."""
        if self._packed is None:
            self._packed = bytes(self._sketch.serialize())
        return self._packed

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the sketch that `pack` serialised.

        Raises:
            SketchError: the bytes are truncated, damaged, or another kind of sketch.
        """
        if problem := _problem(content, SIZE):
            raise SketchError(f"not a sketch of scores: it {problem}")
        sketch = cls()
        sketch._packed = content
        sketch._sketch = req_floats_sketch.deserialize(content)
        return sketch


def _problem(content: bytes, k: int) -> str | None:
    """Return what is wrong with a serialised `req_floats_sketch(k, True)`; None if it is valid.

    The check is complete, because DataSketches' reader may read out of bounds on damaged bytes. Source:
    `req_sketch::serialize` and `req_compactor::serialize` in Apache DataSketches for C++, version 5.2.
    """
    try:
        preamble, version, family, flags, sketch_k, levels, raw = _PREAMBLE.unpack_from(content)
        if (version, family, sketch_k) != (_VERSION, _FAMILY, k) or not flags & _HIGH_RANKS:
            return f"is not a REQ sketch of high ranks with k {k}"
        body = content[_PREAMBLE.size :]
        empty, is_raw = bool(flags & _EMPTY), bool(flags & _RAW)
        if preamble != (4 if levels > 1 else 2) or levels > _MAX_LEVELS or (levels == 0) != empty:
            return f"has {levels} levels"
        if empty:
            return None if not raw and not body else "is empty, but holds scores"
        if (raw > 0) != is_raw or raw > _MAX_RAW or (raw and levels > 1):
            return f"has {raw} raw scores"
        if raw:
            return _raw_problem(body, raw)
        return _levels_problem(body, levels, k, bool(flags & _SORTED))
    except struct.error:
        return "is truncated"


def _raw_problem(body: bytes, raw: int) -> str | None:
    if len(body) not in (4 * raw, 4 * raw + _RAW_PADDING):
        return f"has {len(body)} bytes for {raw} raw scores"
    return None if np.isfinite(np.frombuffer(body, np.float32, raw)).all() else _NOT_FINITE


def _levels_problem(body: bytes, levels: int, k: int, first_sorted: bool) -> str | None:
    scores, smallest, largest = _WHOLE.unpack_from(body) if levels > 1 else (None, -np.inf, np.inf)
    at, total = _WHOLE.size if levels > 1 else 0, 0
    for level in range(levels):
        state, size, number, sections, padding, count = _LEVEL.unpack_from(body, at)
        at += _LEVEL.size
        # Each compaction halves at least two scores. Merging joins states by OR, which is at most their sum.
        unsound = padding or state > (scores or 0) or _section_size(k, sections) != size
        if number != level or unsound:
            return f"has an invalid level {level}"
        if count > 8 * sections * size or at + 4 * count > len(body):
            return f"claims {count} scores on level {level}"
        items = np.frombuffer(body, np.float32, count, at)
        at += 4 * count
        total += count << level
        if problem := _items_problem(items, smallest, largest, level > 0 or first_sorted):
            return problem
    if at != len(body):
        return f"has {len(body) - at} extra bytes"
    if levels > 1 and total != scores:
        return f"claims {scores} scores, but holds {total}"
    return None if total else "claims scores, but holds none"


def _items_problem(items: NDArray[np.float32], low: float, high: float, ordered: bool) -> str | None:
    if not np.isfinite(items).all():
        return _NOT_FINITE
    if ((items < low) | (items > high)).any():
        return "holds scores outside its own limits"
    return "holds a level out of order" if ordered and (np.diff(items) < 0).any() else None


def _section_size(k: int, sections: int) -> float | None:
    """Return the size of a level's sections, given their number; None if a level cannot have this number.

    Each time the number doubles, the size shrinks by the square root of 2.
    """
    size, number = np.float32(k), 3
    while number < sections:
        size, number = size / np.float32(np.sqrt(2)), 2 * number
    return float(size) if number == sections and sections <= 48 else None
