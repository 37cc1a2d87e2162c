"""Counts of windows in the leaves of random trees that a whole fleet draws, from which a forest follows.

All clients draw the trees of the seed in a version's settings (`common.detectors.oblivious_trees`), count
their windows in the leaves, and the counts add. A client sends its own as `SentLeafCounts`; the server merges
them (`server.versions.leaf_counts`), and a version holds the fleet's as `LeafCounts`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from common.bounds import MAX_COUNT, MAX_SERIAL, PositiveCount, Serial
from common.detectors.contract import Floats
from common.detectors.isolation_forest import leaf_shares
from common.detectors.oblivious_trees import LEAVES, TREES, Trees, drawn_trees
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture

COUNTS = TREES * LEAVES
WIDTHS = (1, 2, 4, 8)
"""Bytes of a count as it is sent, the fewest that hold all of them."""
MAX_SENT = COUNTS * WIDTHS[-1] + 1024
"""Longest counts as they are sent, in bytes: compression adds less than this to what it cannot shorten."""

BLOCK = 4096
"""Windows that are counted at a time, so that memory does not grow with their number."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LeafCounts:
    """The number of windows in each leaf, of one client or of a fleet."""

    count: int
    """Number of windows, at least 1."""
    values: Counts
    """Shape (TREES, LEAVES), not negative; no tree has more windows than `count`, and each has one."""

    def __post_init__(self) -> None:
        if self.values.shape != (TREES, LEAVES) or self.values.dtype != np.int64:
            raise ValueError(f"leaf counts have the shape {self.values.shape}, expected {(TREES, LEAVES)}")
        if (self.values < 0).any() or not 1 <= self.count <= MAX_SERIAL:
            raise ValueError(f"leaf counts: one of {self.count} windows is below 0")
        sums = self.values.sum(axis=1)
        if (self.values > self.count).any() or (sums > self.count).any() or (sums < 1).any():
            raise ValueError(f"leaf counts: a tree has not 1 to {self.count} windows")

    @classmethod
    def of(cls, trees: Trees, rows: Floats, starts: NDArray[np.int32], window: int) -> Self:
        """Return the counts of one client's windows.

        Args:
            trees: The trees of the version that the rows are scaled for.
            rows: Shape (n, features), in time order; NaN where a value is missing, which counts as usual.
            starts: First row of each window, at least one.
            window: Events in a window.
        """
        total, filled = np.zeros((TREES, LEAVES), np.int64), np.nan_to_num(rows)
        for first in range(0, len(starts), BLOCK):
            at = starts[first : first + BLOCK, None] + np.arange(window)
            total += trees.counts(filled[at].reshape(len(at), -1))
        return cls(len(starts), total)

    def blended_shares(self, fleet: LeafCounts, prior: int) -> NDArray[np.float64]:
        """Return the share of normal windows in each leaf: with n windows, the own weigh `n / (n + prior)`.

        Args:
            fleet: The fleet's counts.
            prior: Windows with which both count the same (`scoring.prior`).
        """
        own = self.count / (self.count + prior)
        return own * leaf_shares(self.values) + (1 - own) * leaf_shares(fleet.values)

    def packed(self) -> NDArray[Any]:
        """Return the values as integers of the fewest bytes, for a version file."""
        largest = int(self.values.max())
        return self.values.astype(f"<u{next(w for w in WIDTHS if largest < 256**w)}")

    @classmethod
    def unpacked(cls, count: int, array: NDArray[Any]) -> Self:
        """Return the counts that `packed` made an array of.

        Raises:
            ValueError: it has another shape or type, or values that no windows have.
        """
        if array.dtype.kind != "u" or (array > MAX_SERIAL).any():
            raise ValueError("leaf counts are no integers, or too large")
        return cls(count, array.astype(np.int64))


class SentLeafCounts(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """One client's leaf counts as they are sent.

    No count can be negative or not finite: they are integers without a sign.
    """

    count: PositiveCount
    """Number of windows."""
    seed: Serial
    """Seed of the trees (`seed_of`)."""
    width: int
    """Bytes of a count."""
    content: Annotated[bytes, Meta(max_length=MAX_SENT)]
    """The counts of all leaves of all trees, compressed: the lowest bytes of all first (zlib)."""

    def __post_init__(self) -> None:
        sums = self.values().sum(axis=1)
        if (wrong := sums[sums != self.count]).size:
            raise ValueError(f"leaf counts: a tree has {wrong[0]} windows, all together are {self.count}")

    @classmethod
    def of(cls, counts: LeafCounts, seed: int) -> Self:
        """Return counts of trees of this seed as they are sent."""
        packed = counts.packed()
        planes = packed.view(np.uint8).reshape(COUNTS, packed.itemsize).T
        return cls(counts.count, seed, packed.itemsize, zlib.compress(planes.tobytes(), 9))

    def values(self) -> Counts:
        """Return the counts, shape (TREES, LEAVES).

        Raises:
            ValueError: they are damaged, of other trees, or larger than counts may be.
        """
        if self.width not in WIDTHS:
            raise ValueError(f"leaf counts of {self.width} bytes each")
        expected = COUNTS * self.width
        unzip = zlib.decompressobj()
        try:
            content = unzip.decompress(self.content, expected + 1)
        except zlib.error as error:
            raise ValueError(f"leaf counts: damaged: {error}") from None
        if len(content) != expected or not unzip.eof or unzip.unused_data:
            raise ValueError(
                f"leaf counts: {len(content)} bytes or more, expected {COUNTS} counts of {self.width}"
            )
        planes = np.frombuffer(content, np.uint8).reshape(self.width, COUNTS)
        values = np.ascontiguousarray(planes.T).view(f"<u{self.width}").reshape(TREES, LEAVES)
        if (values > MAX_COUNT).any():
            raise ValueError(f"leaf counts: one is above {MAX_COUNT}")
        return values.astype(np.int64)


def seed_of(settings: VersionSettings) -> int:
    """Return the seed of the trees of versions with these settings."""
    return settings.training.seed % (MAX_SERIAL + 1)


def trees_of(settings: VersionSettings, shape: Architecture) -> Trees:
    """Return the trees of versions with these settings, for windows of this shape."""
    return drawn_trees(seed_of(settings), shape.features, shape.window, settings.scoring.decay)
