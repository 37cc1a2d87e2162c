"""A histogram of scores in fixed buckets: exact to merge, bounded to read, with a fixed relative error.

A bucket holds all scores whose float32 numbers have the same upper 16 bits: sign, exponent, and the first 7
bits of the mantissa. So the range from one power of two to the next is divided into `PER_OCTAVE` buckets of
equal width, and a score is known to within 0.4 %. Only the number of scores in each bucket is kept.

Source: Masson, Rim and Lee 2019, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error
Guarantees" (arXiv 1908.10693), with a mapping that is linear between powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from common.bounds import MAX_TOTAL

PER_OCTAVE = 128
"""Buckets from one power of two to the next."""

BUCKETS = 0x7F80
"""Number of buckets; the next number would be infinity."""

RELATIVE_ERROR = 1 / (2 * PER_OCTAVE)
"""Largest relative distance of a score from its bucket's value, for normal float32 numbers."""

_BITS = 16
"""Lower bits of a float32 number that a bucket leaves out."""

Buckets = NDArray[np.int64]


class HistogramError(ValueError):
    """Bytes are not a histogram of scores, a score is infinite or negative, or a histogram is empty."""


class _Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A histogram as it is written."""

    gaps: Annotated[tuple[Annotated[int, Meta(ge=0, lt=BUCKETS)], ...], Meta(max_length=BUCKETS)]
    """The first bucket, then the distance of each bucket from the one before it."""
    counts: Annotated[tuple[Annotated[int, Meta(ge=1, le=MAX_TOTAL)], ...], Meta(max_length=BUCKETS)]


class ScoreHistogram:
    """The number of scores in each bucket that has any. It is not changed once it is made.

    Args:
        buckets: Numbers of the buckets that are not empty, ascending, shape (n,).
        counts: Scores in each of these buckets, shape (n,).

    >>> both = ScoreHistogram.of(np.arange(50.0)).merge(ScoreHistogram.of(np.arange(50.0, 100.0)))
    >>> both.count, both.quantile(0.98), both.quantile(0.0)
    (100, 98.25, 0.0)
    """

    def __init__(self, buckets: Buckets, counts: Buckets) -> None:
        self.buckets, self.counts = buckets, counts

    @classmethod
    def empty(cls) -> Self:
        """Return the histogram of no scores."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> Self:
        """Count scores of shape (n,); NaN, the score of an event without a value, is left out.

        Raises:
            HistogramError: a score is infinite as a float32 number, or negative.
        """
        with np.errstate(over="ignore"):
            known = np.ascontiguousarray(scores[~np.isnan(scores)], np.float32)
        if np.isinf(known).any():
            raise HistogramError("a score is infinite")
        if (known < 0).any():
            raise HistogramError("a score is negative")
        return cls(*_counted((np.abs(known).view(np.uint32) >> _BITS).astype(np.int64)))

    @classmethod
    def merge_all(cls, parts: Iterable[ScoreHistogram]) -> Self:
        """Return the histogram of the scores of all parts together."""
        used = [part for part in parts if len(part.buckets)]
        if not used:
            return cls.empty()
        buckets, at = np.unique(np.concatenate([part.buckets for part in used]), return_inverse=True)
        counts = np.zeros(len(buckets), np.int64)
        np.add.at(counts, at, np.concatenate([part.counts for part in used]))
        return cls(buckets, counts)

    def merge(self, other: ScoreHistogram) -> ScoreHistogram:
        """Return the histogram of both sets of scores together."""
        return ScoreHistogram.merge_all((self, other))

    @property
    def count(self) -> int:
        """Number of scores."""
        return int(self._until[-1]) if len(self._until) else 0

    def quantile(self, rank: float) -> float:
        """Return the score below which this share of the scores lies; rank 1 gives the largest score.

        Raises:
            HistogramError: the histogram is empty.
        """
        return float(self.quantiles(np.array([rank]))[0])

    def quantiles(self, ranks: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the quantiles of these ranks, of the same shape, as `quantile` does.

        Raises:
            HistogramError: the histogram is empty.
        """
        if not self.count:
            raise HistogramError("an empty histogram has no quantiles")
        # The tolerance is for ranks such as 1 - 0.1, times 10, which is slightly less than 9.
        positions = np.minimum(np.floor(ranks * self.count + 1e-9), self.count - 1)
        values: NDArray[np.float64] = self._values[np.searchsorted(self._until, positions, side="right")]
        return values

    def distance(self, other: ScoreHistogram) -> float:
        """Return the largest difference of the two distribution functions (Kolmogorov-Smirnov), 0 to 1.

        Raises:
            HistogramError: a histogram is empty.

        >>> round(ScoreHistogram.of(np.arange(100.0)).distance(ScoreHistogram.of(np.arange(25.0, 125.0))), 2)
        0.25
        """
        if not self.count or not other.count:
            raise HistogramError("an empty histogram has no distance from another")
        points = np.union1d(self.buckets, other.buckets)
        own, others = (
            np.concatenate([[0], h._until])[np.searchsorted(h.buckets, points, side="right")] / h.count
            for h in (self, other)
        )
        return float(np.abs(own - others).max())

    def capped(self, count: float) -> ScoreHistogram:
        """Return a histogram of at most `count` scores, at least one, with the same quantiles.

        It is this histogram if it has no more. Else each number is multiplied by one factor; the numbers up
        to each bucket are rounded.

        >>> ScoreHistogram.of(np.repeat([1.0, 2.0, 4.0], [500, 400, 100])).capped(10).counts.tolist()
        [5, 4, 1]
        """
        if self.count <= count:
            return self
        until = np.rint(self._until * (max(1, round(count)) / self.count)).astype(np.int64)
        return self._filled(np.diff(until, prepend=0))

    def clipped(self, largest: NDArray[np.float64] | float) -> ScoreHistogram:
        """Return the histogram in which no score is in a higher bucket than `largest`.

        Args:
            largest: The largest score, or the largest one that each bucket's scores may have, shape (n,).

        >>> ScoreHistogram.of(np.array([1.0, 2.0, 40.0])).clipped(3.0).quantile(1.0)
        3.0078125
        """
        limits = bucket_of(largest)
        if (self.buckets <= limits).all():
            return self
        return type(self)(*_counted(np.minimum(self.buckets, limits), self.counts))

    def pack(self) -> bytes:
        """Return the histogram as bytes; the same bytes for the same numbers."""
        gaps = np.diff(self.buckets, prepend=0)
        return msgspec.msgpack.encode(_Packed(tuple(gaps.tolist()), tuple(self.counts.tolist())))

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the histogram of `pack`.

        Raises:
            HistogramError: the bytes are truncated, damaged, or not a histogram.
        """
        try:
            packed = msgspec.msgpack.decode(content, type=_Packed)
        except msgspec.MsgspecError as error:
            raise HistogramError(f"not a histogram of scores: {error}") from None
        if len(packed.gaps) != len(packed.counts) or 0 in packed.gaps[1:]:
            raise HistogramError("not a histogram of scores: it has not one count for each bucket")
        if sum(packed.gaps) >= BUCKETS:
            raise HistogramError(f"not a histogram of scores: it has bucket {sum(packed.gaps)} of {BUCKETS}")
        if sum(packed.counts) > MAX_TOTAL:
            raise HistogramError(f"not a histogram of scores: it counts {sum(packed.counts)}")
        return cls(np.cumsum(packed.gaps, dtype=np.int64), np.array(packed.counts, np.int64))

    @cached_property
    def _until(self) -> Buckets:
        """Scores in each bucket and all lower ones."""
        return np.cumsum(self.counts)

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return bucket_values(self.buckets)

    def _filled(self, counts: Buckets) -> ScoreHistogram:
        filled = counts > 0
        return type(self)(self.buckets[filled], counts[filled])


def bucket_of(scores: NDArray[np.float64] | float) -> Buckets:
    """Return the number of each score's bucket, of the same shape; the highest for one that is too large."""
    with np.errstate(over="ignore"):
        bits = np.abs(np.asarray(scores)).astype(np.float32).view(np.uint32) >> _BITS
    buckets: Buckets = np.minimum(bits.astype(np.int64), BUCKETS - 1)
    return buckets


def bucket_values(buckets: Buckets) -> NDArray[np.float64]:
    """Return the middle of each bucket, of the same shape; 0 for the lowest, which holds the scores of 0."""
    middle = (buckets << _BITS) + (1 << (_BITS - 1))
    return np.where(buckets > 0, middle.astype(np.uint32).view(np.float32), 0.0).astype(np.float64)


def _counted(buckets: Buckets, counts: Buckets | None = None) -> tuple[Buckets, Buckets]:
    """Return the buckets that occur, ascending, and the number of scores in each."""
    occurring, at = np.unique(buckets, return_inverse=True)
    totals = np.zeros(len(occurring), np.int64)
    np.add.at(totals, at, 1 if counts is None else counts)
    return occurring, totals
