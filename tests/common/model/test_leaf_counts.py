"""Leaf counts travel and are stored as integers, and only counts that windows can have are read."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from common.bounds import MAX_COUNT
from common.detectors.oblivious_trees import LEAVES, TREES
from common.model.leaf_counts import COUNTS, LeafCounts, SentLeafCounts, seed_of, trees_of
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from tests.client.training.samples import version

MANIFEST = version()
WINDOW = MANIFEST.architecture.window
ROWS = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
STARTS = np.arange(len(ROWS) - WINDOW + 1, dtype=np.int32)
TREES_OF_VERSION = trees_of(MANIFEST.settings, MANIFEST.architecture)
COUNTED = LeafCounts.of(TREES_OF_VERSION, ROWS, STARTS, WINDOW)


def one_leaf(count: int) -> LeafCounts:
    values = np.zeros((TREES, LEAVES), np.int64)
    values[:, 5] = count
    return LeafCounts(count, values)


@pytest.mark.parametrize("counts", [
    COUNTED, one_leaf(255), one_leaf(256), one_leaf(2**16), one_leaf(2**24 + 1), one_leaf(MAX_COUNT),
], ids=["rows", "a byte", "two bytes", "four", "beyond single precision", "the largest"])  # fmt: skip
def test_what_is_sent_and_stored_is_what_was_counted(counts: LeafCounts) -> None:
    sent = SentLeafCounts.of(counts, 3)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=SentLeafCounts)
    assert again.values().tolist() == counts.values.tolist()
    assert LeafCounts.unpacked(counts.count, counts.packed()).values.tolist() == counts.values.tolist()


def test_counts_are_of_whole_windows_and_missing_values_are_usual() -> None:
    assert COUNTED.count == len(STARTS) and (COUNTED.values.sum(axis=1) == len(STARTS)).all()
    holes, usual = ROWS.copy(), ROWS.copy()
    holes[::7, 1], usual[::7, 1] = np.nan, 0
    found = LeafCounts.of(TREES_OF_VERSION, holes, STARTS, WINDOW)
    assert found.values.tolist() == LeafCounts.of(TREES_OF_VERSION, usual, STARTS, WINDOW).values.tolist()


def test_with_many_windows_the_own_counts_decide_and_with_few_the_fleets() -> None:
    fleet = one_leaf(10**6)
    for count, nearer in ((10, fleet), (10**9, one_leaf(1))):
        own = LeafCounts(count, np.roll(one_leaf(count).values, 1, axis=1))
        shares = own.blended_shares(fleet, 1000)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert shares[0, 5] == pytest.approx(1000 / (count + 1000)) or nearer is fleet


def sent(**changes: Any) -> bytes:
    fields = msgspec.structs.asdict(SentLeafCounts.of(COUNTED, 3)) | changes
    return msgspec.msgpack.encode(list(fields.values()))


def zipped(array: np.ndarray) -> bytes:
    return zlib.compress(array.tobytes())


@pytest.mark.parametrize(("changes", "why"), [
    ({"count": 299}, "a tree has 298 windows, all together are 299"),
    ({"count": 297}, "a tree has 298 windows, all together are 297"),
    ({"count": 0}, "count|>= 1"), ({"seed": -1}, ">= 0"), ({"width": 3}, "of 3 bytes each"),
    ({"width": 2}, "expected 25600 counts of 2"), ({"content": b"no"}, "damaged"),
    ({"content": zipped(np.zeros(COUNTS - 1, "<u1"))}, "25599 bytes"),
    ({"content": zipped(np.zeros(10 * COUNTS, "<u1"))}, "25601 bytes or more"),
    ({"content": zlib.compress(bytes(COUNTS))[:-4]}, "expected 25600 counts of 1"),
    ({"width": 8, "content": zipped(np.full(8 * COUNTS, 255, np.uint8))}, "one is above"),
])  # fmt: skip
def test_other_counts_are_refused_when_they_are_read(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.msgpack.decode(sent(**changes), type=SentLeafCounts)


@pytest.mark.parametrize(("count", "values", "why"), [
    (5, np.zeros((TREES, LEAVES), np.int64), "1 to 5"), (5, one_leaf(6).values, "1 to 5"),
    (5, -one_leaf(5).values, "below 0"), (0, one_leaf(5).values, "below 0"),
    (5, one_leaf(5).values[:, 1:], "shape"),
])  # fmt: skip
def test_counts_that_no_windows_have_are_no_leaf_counts(count: int, values: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        LeafCounts(count, values)


def test_a_version_holds_them_and_its_hash_covers_them() -> None:
    with_counts = replace(MANIFEST, leaf_counts=COUNTED)
    again = Manifest.unpack(with_counts.pack())
    assert again.leaf_counts is not None and again.hash == with_counts.hash != MANIFEST.hash
    assert again.leaf_counts.values.tolist() == COUNTED.values.tolist()
    assert again.leaf_counts.count == COUNTED.count


def test_a_version_with_counts_as_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match="no integers"):
        LeafCounts.unpacked(5, one_leaf(5).values.astype(np.float32))


def test_features_in_another_order_have_other_trees() -> None:
    with_counts = replace(MANIFEST, leaf_counts=COUNTED)
    assert with_counts.aligned(Schema(("b", "a"))).leaf_counts is None
    assert with_counts.aligned(MANIFEST.schema).leaf_counts is COUNTED


def test_the_seed_is_that_of_the_training() -> None:
    assert seed_of(version(training={"seed": 9}).settings) == 9
    assert seed_of(version(training={"seed": 2**70 + 3}).settings) < 2**53 + 1


def test_an_unreadable_array_of_counts_is_named() -> None:
    broken = replace(MANIFEST, leaf_counts=COUNTED).pack().replace(b"leaf_counts_count", b"leaf_counts_cound")
    with pytest.raises(ManifestError, match="leaf_counts_count"):
        Manifest.unpack(broken)
