"""Random trees that depend on a seed alone, so that all machines of a fleet draw the same ones.

A tree is oblivious: all its nodes of one depth have the same split, so that the leaf of a window is the
number whose bits are the answers. A split compares a weighted sum of up to three values of one event with a
threshold, as in extended isolation forests. Inputs are scaled: 0 is usual, and 1 the usual distance from it.

Sources: Hariri, Carrasco Kind and Brunner 2021 (splits of several inputs); Tan, Ting and Liu 2011 (trees
drawn before the data are seen, and mass at their nodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.contract import Floats

TREES, DEPTH, MIXED = 100, 8, 3
LEAVES = 2**DEPTH
SPLITS = TREES * DEPTH
RANGE = 4.0
"""Largest distance of a threshold from the usual value of a split, in usual distances of its inputs."""
BLOCK = 256
"""Windows whose leaves are found at a time, so that the answers stay in the cache of a processor."""


class InputsOfSplits(NamedTuple):
    """Which inputs the splits add, each once for a split, and the same for each tree."""

    pair: NDArray[np.intp]
    """For each of `Trees.inputs`, the number of the pair of its split and itself, in the same shape."""
    split: NDArray[np.intp]
    """The split of each pair, shape (pairs,)."""
    group: NDArray[np.intp]
    """For each pair, the number of the group of its tree and its input, shape (pairs,)."""
    tree: NDArray[np.intp]
    """The tree of each group, shape (groups,)."""
    input: NDArray[np.intp]
    """The input of each group, shape (groups,)."""


class WithoutInputs(NamedTuple):
    """The leaves of a window as a whole, and without one input in a tree that uses it."""

    leaves: NDArray[np.uint8]
    """Those of the whole window, shape (TREES,)."""
    tree: NDArray[np.intp]
    """A tree, shape (n,)."""
    input: NDArray[np.intp]
    """An input that the tree uses, shape (n,)."""
    without: NDArray[np.uint8]
    """The leaf in this tree without this input, shape (n,)."""


@dataclass(frozen=True, eq=False)
class Trees:
    """The splits of `TREES` trees: those of the first tree first, each from its root to its leaves."""

    inputs: NDArray[np.intp]
    """Positions of the inputs that a split adds, all of one event, shape (MIXED, SPLITS)."""
    factors: Floats
    """Their factors, in the same shape."""
    thresholds: Floats
    """Shape (SPLITS,): a sum above it is in the upper half."""

    @classmethod
    def drawn(cls, seed: int, recency: Floats, features: int) -> Self:
        """Draw the trees of a seed.

        Args:
            seed: Any number that is not negative.
            recency: Weight of each input by the age of its event, shape (inputs,): newer events are drawn as
                much more often.
            features: Number of values of an event.
        """
        event, *others = _uniform(seed, (1 + 3 * MIXED) * SPLITS).reshape(-1, SPLITS)
        feature, factor, point = np.reshape(others, (3, MIXED, SPLITS))
        shares = np.cumsum(recency[::features].astype(np.float64))
        events = np.searchsorted(shares / shares[-1], event, side="right")
        inputs = events * features + (feature * features).astype(np.intp)
        factors = 2 * factor - 1
        # Thresholds are dense where values are: a cube of a uniform number is mostly near 0. There is no
        # power and no root in this, which processors may round differently.
        side = 2 * point - 1
        thresholds = (factors * RANGE * (side * side * side)).sum(axis=0)
        return cls(inputs, factors.astype(np.float32), thresholds.astype(np.float32))

    def leaves(self, windows: Floats) -> NDArray[np.uint8]:
        """Return the leaf of each window in each tree, shape (n, TREES).

        The same windows have the same leaves on every machine: a sum is of three products, in one order.

        Args:
            windows: Shape (n, inputs), scaled; a missing value is 0, the usual one.
        """
        found = np.empty((len(windows), TREES), np.uint8)
        for first in range(0, len(windows), BLOCK):
            block = np.ascontiguousarray(windows[first : first + BLOCK].T)
            sums = block[self.inputs[0]] * self.factors[0][:, None]
            for inputs, factors in zip(self.inputs[1:], self.factors[1:], strict=True):
                sums += block[inputs] * factors[:, None]
            above = (sums > self.thresholds[:, None]).reshape(TREES, DEPTH, -1)
            found[first : first + BLOCK] = np.packbits(above, axis=1)[:, 0].T
        return found

    def leaves_without(self, window: Floats) -> WithoutInputs:
        """Return in which leaves a window is without one of its inputs, which is 0 then.

        Args:
            window: Shape (inputs,), as for `leaves`.
        """
        of = self._inputs_of_splits
        terms = window[self.inputs] * self.factors
        sums = terms.sum(axis=0)
        above = sums > self.thresholds
        others = sums[of.split] - np.bincount(of.pair.ravel(), weights=terms.ravel())
        changed = (others > self.thresholds[of.split]) != above[of.split]
        bits = np.where(changed, 1 << (DEPTH - 1 - of.split % DEPTH), 0)
        leaves = np.packbits(above)
        without = leaves[of.tree] ^ np.bincount(of.group, weights=bits).astype(np.uint8)
        return WithoutInputs(leaves, of.tree, of.input, without)

    @cached_property
    def _inputs_of_splits(self) -> InputsOfSplits:
        split, most = np.broadcast_to(np.arange(SPLITS), self.inputs.shape), int(self.inputs.max()) + 1
        pairs, pair = np.unique(split * most + self.inputs, return_inverse=True)
        of, inputs = np.divmod(pairs, most)
        groups, group = np.unique(of // DEPTH * most + inputs, return_inverse=True)
        return InputsOfSplits(pair, of, group, *np.divmod(groups, most))

    def counts(self, windows: Floats) -> NDArray[np.int64]:
        """Return how many of these windows are in each leaf, shape (TREES, LEAVES)."""
        total = np.zeros(TREES * LEAVES, np.int64)
        for first in range(0, len(windows), BLOCK):
            leaves = self.leaves(windows[first : first + BLOCK]) + OFFSETS
            total += np.bincount(leaves.ravel(), minlength=TREES * LEAVES)
        return total.reshape(TREES, LEAVES)


OFFSETS = np.arange(TREES) * LEAVES
"""Position of each tree's first leaf among the leaves of all trees."""


@lru_cache(maxsize=4)
def drawn_trees(seed: int, features: int, window: int, decay: float) -> Trees:
    """Return the trees of a seed for windows of events whose weight falls by `decay` with each."""
    weights = np.repeat(np.cumprod([1.0] + [decay] * (window - 1))[::-1], features)
    return Trees.drawn(seed, weights.astype(np.float32), features)


def _uniform(seed: int, count: int) -> NDArray[np.float64]:
    """Return numbers from 0 to 1, the same on every machine and with every release of NumPy."""
    raw = np.random.PCG64(seed).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
