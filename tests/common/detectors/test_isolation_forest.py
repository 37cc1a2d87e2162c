"""The isolation forest follows paths through random trees as long as normal windows go along."""

from __future__ import annotations

import numpy as np
import pytest

from common.detectors.contract import DetectorState, DetectorStateError, occluded
from common.detectors.isolation_forest import SAMPLE, IsolationForest, leaf_shares, path_lengths
from common.detectors.oblivious_trees import DEPTH, LEAVES, SPLITS, TREES, Trees
from tests.common.detectors.test_contract import FEATURES, INPUTS, NORMAL, RECENCY, far

FOREST = IsolationForest.fit(NORMAL, FEATURES, RECENCY, 1000)


def simulated(shares: np.ndarray, leaf: int, repeats: int = 4000) -> float:
    """The mean number of splits until a window of a leaf is alone in a random sample, at most `DEPTH`."""
    rng, total = np.random.default_rng(0), 0
    for _ in range(repeats):
        others = rng.multinomial(SAMPLE - 1, shares)
        for depth in range(DEPTH):
            nodes = others.reshape(2**depth, -1).sum(axis=1)
            if not nodes[leaf >> (DEPTH - depth)]:
                break
            total += 1
    return total / repeats


def test_a_path_is_as_long_as_the_mean_over_samples() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(LEAVES, 0.05))
    rare = int(np.argmin(shares))  # nothing of a tree is below such a leaf
    assert SAMPLE * shares[rare] < 1
    found = path_lengths(shares[None])[0, rare]
    assert found == pytest.approx(simulated(shares, rare), rel=0.05)


def test_a_leaf_with_more_windows_has_a_longer_path() -> None:
    shares = np.full((1, LEAVES), 1e-4)
    shares[0, :3] = 0.1, 0.3, 0.5
    lengths = path_lengths(shares / shares.sum())[0]
    assert lengths[2] > lengths[1] > lengths[0] > lengths[3]


def test_more_windows_of_the_same_kind_change_nothing() -> None:
    counts = Trees.drawn(0, RECENCY, FEATURES).counts(NORMAL)
    many = counts.astype(np.int64) * 2**40
    np.testing.assert_array_equal(path_lengths(leaf_shares(many)), path_lengths(leaf_shares(counts)))


def test_counts_beyond_single_precision_are_exact() -> None:
    counts = np.zeros((1, LEAVES), np.int64)
    counts[0, :2] = 2**24 + 1, 2**40
    assert leaf_shares(counts)[0, 0] == (2**24 + 1) / (2**40 + 2**24 + 1)


def test_windows_of_another_kind_have_higher_scores_than_all_but_few_normal_ones() -> None:
    rng = np.random.default_rng(2)
    other = rng.standard_normal((200, INPUTS)).astype(np.float32) * 3
    limit = np.quantile(FOREST.score_many(NORMAL), 0.99)
    assert (FOREST.score_many(other) > limit).mean() > 0.95


def test_a_missing_value_counts_as_the_usual_one() -> None:
    window = far()
    window[INPUTS - 2] = np.nan
    usual = window.copy()
    usual[INPUTS - 2] = 0
    assert FOREST.score_one(window) == pytest.approx(FOREST.score_one(usual))


def test_an_explanation_is_what_the_score_loses_without_a_value() -> None:
    window = far()
    parts = FOREST.contributions(window, window * 100)
    usual = window.copy()
    usual[INPUTS - 2] = 0
    expected = FOREST.score_one(window) - FOREST.score_one(usual)
    assert parts[INPUTS - 2] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("number", range(20))
def test_an_explanation_is_that_of_scoring_the_window_without_each_of_its_values(number: int) -> None:
    window = NORMAL[number] * np.float32(2 + number / 4)
    window[number % INPUTS] = np.nan
    expected = occluded(FOREST.score_many, window)
    assert expected.any()
    np.testing.assert_allclose(FOREST.contributions(window, window), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "value", "why"), [
    ("inputs", np.full((3, SPLITS), INPUTS, np.float32), "number"),
    ("inputs", np.full((3, SPLITS), 0.5, np.float32), "number"),
    ("lengths", np.full((TREES, LEAVES), -1, np.float32), "path"),
    ("usual", np.array([1e9], np.float32), "path"), ("thresholds", np.zeros(3, np.float32), "shapes"),
])  # fmt: skip
def test_a_state_of_no_forest_is_refused(name: str, value: np.ndarray, why: str) -> None:
    state = FOREST.state
    with pytest.raises(DetectorStateError, match=why):
        IsolationForest.restored(
            DetectorState(state.by_input, {**state.other, name: value}), INPUTS, FEATURES
        )
