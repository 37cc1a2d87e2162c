"""A sketch of a distribution of scores: a few kilobytes, mergeable, accurate for the largest scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
from datasketches import req_floats_sketch
from numpy.typing import NDArray

from common.model import req_format

SIZE = 32
"""Parameter k of the sketch: about 0.3 % relative error of 1 - rank; 10 kB for a hundred thousand scores."""
_PIECE = 1024
"""Scores added at a time: the library holds Python's global lock, and other threads must not wait long."""


class SketchError(ValueError):
    """Bytes are not a sketch of scores, scores are not finite, or a sketch is empty."""


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
        """Sketch scores of shape (n,), all finite."""
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
        """Add scores of shape (n,).

        Raises:
            SketchError: a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise SketchError("a score is not finite")
        self._packed = None
        whole = np.ascontiguousarray(scores, np.float32)
        for start in range(0, len(whole), _PIECE):
            self._sketch.update(whole[start : start + _PIECE])

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
        if problem := req_format.problem(content, SIZE):
            raise SketchError(f"not a sketch of scores: it {problem}")
        sketch = cls()
        sketch._packed = content
        sketch._sketch = req_floats_sketch.deserialize(content)
        return sketch
