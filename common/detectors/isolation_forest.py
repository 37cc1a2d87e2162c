"""The isolation forest: how few splits separate a window from the normal ones."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.contract import (
    MAX_SCORE,
    DetectorState,
    DetectorStateError,
    Floats,
    newest_missing,
)
from common.detectors.oblivious_trees import DEPTH, LEAVES, MIXED, OFFSETS, SPLITS, TREES, Trees

SAMPLE = 1024
"""Windows of the sample in which a path is followed: many, so that rare nodes differ in how rare they are."""
SPLITS_PER_E = 2
"""Splits by which the path to a window is longer if there are e times as many: it is twice a logarithm."""
MAX_LENGTH = 100
"""Largest length of a path, in splits: no sample of `SAMPLE` windows has longer ones."""

Doubles = NDArray[np.float64]


class IsolationForest:
    """A detector by the expected length of the paths to a window in random trees (an `OwnDetector`).

    The path to a window goes on while a sample of `SAMPLE` normal windows has others in its node, and ends
    early for a window that is unlike them. The score is how many times rarer than usual windows the mean path
    says that a window is. A missing value counts as the usual one, 0.

    Sources: Liu, Ting and Zhou 2008 (the path, and its expected rest below the last split); Hariri, Carrasco
    Kind and Brunner 2021 (splits of several inputs).

    Args:
        trees: The splits.
        lengths: Expected length of the path to each leaf, shape (TREES, LEAVES).
        usual: Mean length of the path to a normal window.
        inputs: Number of values of a window.
        features: Number of values of an event.
    """

    def __init__(self, trees: Trees, lengths: Floats, usual: float, inputs: int, features: int) -> None:
        self._trees, self._lengths, self._inputs, self._features = trees, lengths, inputs, features
        self._usual = float(np.float32(usual))  # as a file holds it
        self._flat = np.ascontiguousarray(lengths).ravel()
        self._taken, self._sums = np.empty((MIXED, SPLITS), np.float32), np.empty(SPLITS, np.float32)
        self._above, self._found = np.empty(SPLITS, np.bool_), np.empty(TREES, np.float32)
        self._at = np.empty(TREES, np.intp)

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit the forest of seed 0 to normal windows (`OwnDetector.fit`)."""
        trees = Trees.drawn(0, recency, features)
        shares = leaf_shares(trees.counts(windows))
        return cls.of_shares(trees, shares, shares, windows.shape[1], features)

    @classmethod
    def of_shares(cls, trees: Trees, shares: Doubles, own: Doubles, inputs: int, features: int) -> Self:
        """Return the forest with these shares of normal windows in its leaves.

        Args:
            trees: The splits.
            shares: Shape (TREES, LEAVES), the sum for each tree 1.
            own: The shares of this machine's windows alone, which say what is usual, in the same shape.
            inputs: Number of values of a window.
            features: Number of values of an event.
        """
        lengths = path_lengths(shares)
        usual = float((own * lengths).sum()) / TREES
        return cls(trees, lengths, usual, inputs, features)

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        if not np.dot(inputs, inputs) <= MAX_SCORE:
            return float(self.score_many(inputs[None])[0])
        np.take(inputs, self._trees.inputs, out=self._taken, mode="clip")
        np.multiply(self._taken, self._trees.factors, out=self._taken)
        np.add(self._taken[0], self._taken[1], out=self._sums)
        np.add(self._sums, self._taken[2], out=self._sums)
        np.greater(self._sums, self._trees.thresholds, out=self._above)
        np.add(np.packbits(self._above), OFFSETS, out=self._at)
        np.take(self._flat, self._at, out=self._found, mode="clip")
        return math.exp((self._usual - float(self._found.sum()) / TREES) / SPLITS_PER_E)

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        leaves = self._trees.leaves(np.nan_to_num(inputs, posinf=MAX_SCORE, neginf=-MAX_SCORE))
        paths = self._flat[leaves + OFFSETS].mean(axis=1, dtype=np.float64)
        scores: Floats = np.exp((self._usual - paths) / SPLITS_PER_E).astype(np.float32)
        scores[newest_missing(inputs, self._features)] = np.nan
        return scores

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return by how much the score falls if an input is the usual one, shape (inputs,).

        Paths have an end, so values beyond the limit have no larger part than those at it.
        """
        of = self._trees.leaves_without(np.nan_to_num(inputs, posinf=MAX_SCORE, neginf=-MAX_SCORE))
        paths = self._lengths[np.arange(TREES), of.leaves]
        longer = self._lengths[of.tree, of.without] - paths[of.tree]
        gained = np.bincount(of.input, weights=longer, minlength=self._inputs) / TREES
        score = math.exp((self._usual - float(paths.mean(dtype=np.float64))) / SPLITS_PER_E)
        return np.maximum(score * -np.expm1(-gained / SPLITS_PER_E), 0).astype(np.float32)

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        trees = self._trees
        other = {
            "inputs": trees.inputs.astype(np.float32), "factors": trees.factors,
            "thresholds": trees.thresholds, "lengths": self._lengths,
            "usual": np.array([self._usual], np.float32),
        }  # fmt: skip
        return DetectorState({"number": np.arange(self._inputs, dtype=np.float32)}, other)

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state (`OwnDetector.restored`).

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        numbers, at = state.array("number", 1, inputs), state.array("inputs", 2)
        factors, thresholds = state.array("factors", 2), state.array("thresholds", 1)
        lengths, usual = state.array("lengths", 2), state.array("usual", 1)
        shapes = [array.shape for array in (at, factors, thresholds, lengths, usual)]
        if shapes != [(MIXED, SPLITS), (MIXED, SPLITS), (SPLITS,), (TREES, LEAVES), (1,)]:
            raise DetectorStateError(f"the arrays of the forest have the shapes {shapes}")
        if not np.array_equal(np.sort(numbers), np.arange(inputs)) or not np.isin(at, numbers).all():
            raise DetectorStateError("'number' does not number the inputs that the splits add")
        if not (lengths >= 0).all() or not (lengths <= MAX_LENGTH).all() or not 0 <= usual[0] <= MAX_LENGTH:
            raise DetectorStateError(f"a path is not 0 to {MAX_LENGTH} splits long")
        # Inputs may have been put into another order since the splits were drawn.
        trees = Trees(np.argsort(numbers)[at.astype(np.intp)], factors, thresholds)
        return cls(trees, lengths, float(usual[0]), inputs, features)


def leaf_shares(counts: NDArray[np.integer]) -> Doubles:
    """Return the share of a tree's windows that each of its leaves has; counts are exact below 2^53."""
    shares: Doubles = counts / counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return shares


def path_lengths(shares: Doubles) -> Floats:
    """Return the expected length of the path to each leaf, in a random sample of `SAMPLE` normal windows.

    A node is split if it has others of the sample, as it does with the probability `1 - (1 - share)^(SAMPLE -
    1)`. A leaf with several goes on as far as a tree of them does on average.

    Args:
        shares: Of normal windows in each leaf, shape (TREES, LEAVES).

    >>> even = path_lengths(np.full((1, LEAVES), 1 / LEAVES))
    >>> alone = path_lengths(np.eye(1, LEAVES))
    >>> round(float(even[0, 0]), 1), round(float(alone[0, 0]), 1), round(float(alone[0, -1]), 1)
    (10.2, 21.0, 1.0)
    """
    total = np.zeros(shares.shape)
    for depth in range(DEPTH):
        nodes = shares.reshape(len(shares), 2**depth, -1).sum(axis=2)
        split = 1 - (1 - np.minimum(nodes, 1)) ** (SAMPLE - 1)
        total += np.repeat(split, LEAVES // 2**depth, axis=1)
    lengths: Floats = (total + _rest(SAMPLE * shares)).astype(np.float32)
    return lengths


def _rest(count: Doubles) -> Doubles:
    """Return the mean length of a path in a tree of this many windows: equation 1 of Liu, Ting and Zhou.

    Their harmonic number of n is approximated by ln(n + 1/2) + gamma, which holds from n = 0 on.
    """
    others = np.maximum(count - 1, 0)
    rest: Doubles = 2 * (np.log(others + 0.5) + np.euler_gamma) - 2 * others / (others + 1)
    return np.maximum(rest, 0)
