"""The fleet's leaf counts are those of all rows in one place, however the parts of the clients arrive."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.detectors.isolation_forest import leaf_shares, path_lengths
from common.detectors.oblivious_trees import LEAVES, TREES, drawn_trees
from common.model.leaf_counts import LeafCounts, SentLeafCounts
from server.federation.admission import AdmissionError, admit
from server.federation.client_records import ClientRecords
from server.versions.influence import MAX_MASS
from server.versions.leaf_counts import ClientLeafCounts, merged_leaf_counts
from server.versions.rescaling import Rescaling, rescaled
from tests.server.federation.test_admission import asked, update
from tests.server.replies import update as reply
from tests.server.versions.test_rescaling import OTHER, version

FEATURES, WINDOW, SEED = 4, 3, 11
FOREST = drawn_trees(SEED, FEATURES, WINDOW, 0.8)
LEAST, MOST = 40, 100
"""Windows of a client, so that none has three times those of the median one and is reduced."""


def rows_of(client: int) -> np.ndarray:
    """All rows that a client ever has; it sends the counts of the first ones of them."""
    rng = np.random.default_rng(client)
    return (rng.standard_normal((MOST + WINDOW - 1, FEATURES)) + client % 3).astype(np.float32)


def windows_of(client: int, count: int) -> np.ndarray:
    at = np.arange(count)[:, None] + np.arange(WINDOW)
    return rows_of(client)[at].reshape(count, -1)


@cache
def counted(client: int, count: int) -> SentLeafCounts:
    starts = np.arange(count, dtype=np.int32)
    return SentLeafCounts.of(LeafCounts.of(FOREST, rows_of(client), starts, WINDOW), SEED)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[int, int, int]], set[int]]:
    """Parts of clients (client, version, windows) in any order, some of them twice, and who has stayed."""
    clients = draw(st.integers(1, 5))
    sent = []
    for client in range(clients):
        counts = draw(st.lists(st.sampled_from([LEAST, 41, 63, 87, MOST]), min_size=1, max_size=3))
        sent += [(client, number, count) for number, count in enumerate(counts)]
    again = draw(st.lists(st.sampled_from(sent), max_size=4))
    arrived = draw(st.permutations([*sent, *again]))
    return arrived, draw(st.sets(st.integers(0, clients - 1), min_size=1))


@settings(deadline=None, max_examples=40)
@given(deliveries())
def test_any_order_late_or_twice_gives_the_forest_of_pooled_rows(
    case: tuple[list[tuple[int, int, int]], set[int]],
) -> None:
    arrived, stayed = case
    parts, newest = ClientLeafCounts(), {}
    for client, number, count in arrived:
        parts.record(f"c{client}", number, count, counted(client, count))
        newest[client] = max(newest.get(client, (number, count)), (number, count))
    for client in newest.keys() - stayed:
        parts.forget(f"c{client}")
    merged = parts.grown({f"c{client}" for client in newest}, None)
    pooled = np.concatenate([windows_of(client, newest[client][1]) for client in sorted(stayed)])
    assert merged is not None and merged.count == len(pooled)
    expected = FOREST.counts(pooled)
    assert merged.values.tobytes() == expected.tobytes()
    lengths = [path_lengths(leaf_shares(values)) for values in (merged.values, expected)]
    assert lengths[0].tobytes() == lengths[1].tobytes()


def one_leaf(leaf: int, count: int) -> SentLeafCounts:
    values = np.zeros((TREES, LEAVES), np.int64)
    values[:, leaf] = count
    return SentLeafCounts.of(LeafCounts(count, values), SEED)


def test_sums_beyond_single_and_double_words_are_exact() -> None:
    merged = merged_leaf_counts(
        {"a": one_leaf(0, 2**24 + 1), "b": one_leaf(0, 2**24), "c": one_leaf(1, 2**25)}
    )
    assert merged.values[0, :2].tolist() == [2**25 + 1, 2**25]
    large = merged_leaf_counts({name: one_leaf(0, 10**12 - 1) for name in "abc"})
    assert large.values[0, 0] == large.count == 3 * (10**12 - 1)


def test_the_mass_of_one_client_is_bounded() -> None:
    parts = {f"c{i}": one_leaf(0, 100) for i in range(4)}
    merged = merged_leaf_counts({**parts, "liar": one_leaf(9, 10**12)})
    assert merged.values[0, [0, 9]].tolist() == [400, MAX_MASS * 100]
    assert merged.count == 400 + MAX_MASS * 100


def test_a_sound_update_with_leaf_counts_is_admitted() -> None:
    answer = update(leaf_counts=replaced_seed(0, 90))
    assert isinstance(admit(answer, 3, asked()), type(answer))


def replaced_seed(seed: int, count: int) -> SentLeafCounts:
    return SentLeafCounts.of(LeafCounts(count, one_leaf(0, count).values()), seed)


@pytest.mark.parametrize(("wrong", "why"), [
    (replaced_seed(5, 90), "trees of the seed 5, the fleet's is 0"),
    (replaced_seed(0, 101), "101 windows of 100 rows"),
])  # fmt: skip
def test_an_update_with_other_counts_is_not_admitted(wrong: SentLeafCounts, why: str) -> None:
    with pytest.raises(AdmissionError, match=why) as caught:
        admit(update(leaf_counts=wrong), 3, asked())
    assert caught.value.kind == "leaf counts"


def test_a_client_is_asked_again_when_it_has_twice_the_rows() -> None:
    records = ClientRecords()
    assert records.leaf_counts.lacks("a", 0)
    records.record_reply(reply("a", rows=100, leaf_counts=one_leaf(0, 90)))
    assert [records.leaf_counts.lacks("a", rows) for rows in (100, 199, 200)] == [False, False, True]


def test_a_sum_is_renewed_when_it_is_of_a_quarter_more_windows() -> None:
    records = ClientRecords()
    records.record_reply(reply("a", rows=100, leaf_counts=one_leaf(0, 100)))
    used = records.leaf_counts.grown({"a"}, None)
    assert used is not None and used.count == 100
    records.record_reply(reply("b", rows=24, leaf_counts=one_leaf(0, 24)))
    assert records.leaf_counts.grown({"a", "b"}, used) is None  # of two, the larger one counts as 72 at most
    records.record_reply(reply("b", rows=60, leaf_counts=one_leaf(0, 60)))
    merged = records.leaf_counts.grown({"a", "b"}, used)
    assert merged is not None and merged.count == 160


def test_a_new_scale_makes_counts_useless_and_late_ones_of_the_old_scale_are_not_kept() -> None:
    records = ClientRecords()
    records.record_reply(reply("a", rows=100, leaf_counts=one_leaf(0, 90)))
    records.rescale(Rescaling(np.array([2.0, 1.0]), np.zeros(2)), window=1, version=4)
    assert records.leaf_counts.grown({"a"}, None) is None
    records.record_reply(reply("a", version=3, rows=100, leaf_counts=one_leaf(0, 90)))
    assert records.leaf_counts.grown({"a"}, None) is None and records.leaf_counts.lacks("a", 100)
    records.record_reply(reply("a", version=4, rows=100, leaf_counts=one_leaf(0, 90)))
    assert records.leaf_counts.grown({"a"}, None) is not None


def test_a_version_of_a_new_scale_has_none() -> None:
    counts = LeafCounts(5, one_leaf(0, 5).values())
    found = rescaled(replace(version("shared"), leaf_counts=counts), OTHER)
    assert found is not None and found[0].leaf_counts is None


def test_those_of_a_forgotten_client_or_model_do_not_count() -> None:
    records = ClientRecords()
    for name in "ab":
        records.record_reply(reply(name, rows=100, leaf_counts=one_leaf(0, 90)))
    records.forget_scores("b")
    merged: Any = records.leaf_counts.grown({"a", "b"}, None)
    assert merged.count == 90
    records.forget_model()
    assert records.leaf_counts.grown({"a"}, None) is None
