"""All machines draw the same trees from a seed, and find the same leaves."""

from __future__ import annotations

import hashlib

import numpy as np

from common.detectors.oblivious_trees import BLOCK, DEPTH, LEAVES, MIXED, SPLITS, TREES, Trees, drawn_trees
from tests.common.detectors.test_contract import FEATURES, INPUTS, NORMAL, RECENCY

DRAWN = Trees.drawn(7, RECENCY, FEATURES)


def digest(trees: Trees) -> str:
    arrays = (trees.inputs.astype("<i8"), trees.factors, trees.thresholds)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def test_a_seed_gives_the_same_trees_on_every_machine() -> None:
    assert digest(Trees.drawn(7, RECENCY, FEATURES)) == digest(DRAWN) == "7505547291a46790"
    assert digest(Trees.drawn(8, RECENCY, FEATURES)) != digest(DRAWN)
    assert digest(Trees.drawn(2**60, RECENCY, FEATURES)) != digest(DRAWN)


def test_newer_events_are_drawn_as_much_more_often_as_they_weigh() -> None:
    found = np.bincount(DRAWN.inputs.ravel() // FEATURES, minlength=INPUTS // FEATURES)
    np.testing.assert_allclose(
        found / found.sum(), RECENCY[::FEATURES] / RECENCY[::FEATURES].sum(), atol=0.03
    )
    features = np.bincount(DRAWN.inputs.ravel() % FEATURES)
    np.testing.assert_allclose(features / features.sum(), 1 / FEATURES, atol=0.03)


def test_a_leaf_is_the_number_whose_bits_are_the_answers() -> None:
    leaves = DRAWN.leaves(NORMAL[:20])
    for window, found in zip(NORMAL[:20].astype(np.float64), leaves, strict=True):
        sums = (window[DRAWN.inputs] * DRAWN.factors).sum(axis=0)
        bits = (sums > DRAWN.thresholds).reshape(TREES, DEPTH)
        # A sum may be at its threshold to within rounding, which no drawn one of these windows is.
        assert found.tolist() == (bits @ 2 ** np.arange(DEPTH - 1, -1, -1)).tolist()


def test_counts_are_those_of_the_leaves_whatever_the_blocks() -> None:
    windows = np.concatenate([NORMAL] * 2)[: BLOCK * 2 + 17]
    counts, leaves = DRAWN.counts(windows), DRAWN.leaves(windows)
    assert counts.shape == (TREES, LEAVES) and (counts.sum(axis=1) == len(windows)).all()
    assert counts[3].tolist() == np.bincount(leaves[:, 3], minlength=LEAVES).tolist()
    parts = DRAWN.counts(windows[:5]) + DRAWN.counts(windows[5:])
    assert (parts == counts).all()


def test_splits_divide_normal_windows() -> None:
    shares = DRAWN.counts(NORMAL) / len(NORMAL)
    assert (shares > 0).sum(axis=1).mean() > 10


def test_one_value_is_enough() -> None:
    trees = Trees.drawn(0, np.ones(1, np.float32), 1)
    assert trees.inputs.shape == (MIXED, SPLITS) and not trees.inputs.any()
    assert (trees.counts(np.zeros((3, 1), np.float32)).max(axis=1) == 3).all()


def test_trees_of_a_version_are_those_of_its_weights_by_age() -> None:
    trees = drawn_trees(7, FEATURES, INPUTS // FEATURES, 0.8)
    assert digest(trees) == digest(DRAWN)
