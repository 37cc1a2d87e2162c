from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.files.csv_text import DataError
from client.data.partition import Partition
from common.model.schema import Schema
from common.settings import DataSettings
from flockwatch.simulation.division import PartitionError, by_column, contiguous, dirichlet, iid

SETTINGS = DataSettings()


def numbered(rows: int, test_rows: int = 0, seed: int = 0) -> Partition:
    """Rows that name themselves: the first feature counts training rows up, and test rows on from there."""
    values = np.random.default_rng(seed).normal(size=(rows + test_rows, 3)).astype(np.float32)
    values[:, 0] = np.arange(rows + test_rows)
    labels = (np.arange(test_rows) % 3 == 0).astype(np.int8) if test_rows else None
    return Partition("edge", Schema(("row", "cpu", "memory")), values[:rows], values[rows:], labels)


def divided_by_column(whole: Partition, clients: int, seed: int) -> list[Partition]:
    """`by_column` over a file in which each row was given to a client at random."""
    rng = np.random.default_rng(seed)
    train, test = len(whole.rows), len(whole.test_rows)
    owners = np.concatenate([rng.permutation(train) % clients, rng.integers(0, clients, test)])
    values = np.concatenate([whole.rows, whole.test_rows])
    columns = {name: values[:, i] for i, name in enumerate(whole.schema.features)}
    columns["split"] = np.arange(train + test) >= train
    if whole.test_labels is not None:
        columns["label"] = np.concatenate([np.zeros(train, np.int8), whole.test_labels])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.parquet"
        sites = [f"edge-{owner + 1}" for owner in owners]
        pyarrow.parquet.write_table(pa.table({**columns, "site": sites}), path)
        return by_column(path, "site", DataSettings(features=whole.schema.features))


WAYS: dict[str, Callable[[Partition, int, int], list[Partition]]] = {
    "iid": iid,
    "iid in blocks": lambda whole, clients, seed: iid(whole, clients, seed, block=2),
    "contiguous": lambda whole, clients, seed: contiguous(whole, clients),
    "dirichlet, alike": lambda whole, clients, seed: dirichlet(whole, clients, 100.0, seed),
    "dirichlet, apart": lambda whole, clients, seed: dirichlet(whole, clients, 0.01, seed),
    "by column": divided_by_column,
}


@pytest.mark.parametrize("way", WAYS)
@given(
    clients=st.integers(1, 7),
    extra=st.integers(0, 60),
    test_rows=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_parts_are_disjoint_and_the_whole_in_time_order_and_the_same_for_a_seed(
    way: str, clients: int, extra: int, test_rows: int, seed: int
) -> None:
    whole = numbered(2 * clients + extra, test_rows, seed)
    parts = WAYS[way](whole, clients, seed)
    assert [part.name for part in parts] == [f"edge-{i + 1}" for i in range(clients)]
    for side in ("rows", "test_rows"):
        given_out = [getattr(part, side) for part in parts]
        assert all((np.diff(rows[:, 0]) > 0).all() for rows in given_out)
        joined = np.concatenate(given_out)
        np.testing.assert_array_equal(joined[joined[:, 0].argsort()], getattr(whole, side))
    for part in parts:
        assert part.schema == whole.schema
        assert len(part.rows) >= 1
        if whole.test_labels is None or not len(part.test_rows):
            assert part.test_labels is None
        else:
            places = part.test_rows[:, 0].astype(int) - len(whole.rows)
            np.testing.assert_array_equal(part.test_labels, whole.test_labels[places])
    for part, again in zip(parts, WAYS[way](whole, clients, seed), strict=True):
        np.testing.assert_array_equal(part.rows, again.rows)
        np.testing.assert_array_equal(part.test_rows, again.test_rows)


@pytest.mark.parametrize("way", ["iid", "iid in blocks", "dirichlet, alike", "dirichlet, apart"])
def test_another_seed_divides_otherwise(way: str) -> None:
    one, other = (WAYS[way](numbered(100), 3, seed)[0].rows.tolist() for seed in (1, 2))
    assert one != other


class TestRefusals:
    @pytest.mark.parametrize("clients", [-1, 0, 11])
    @pytest.mark.parametrize("way", ["iid", "contiguous", "dirichlet, alike"])
    def test_a_number_of_clients_that_does_not_fit(self, way: str, clients: int) -> None:
        with pytest.raises(PartitionError, match=rf"10 training rows .*{clients} clients"):
            WAYS[way](numbered(10), clients, 0)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
    def test_alpha(self, alpha: float) -> None:
        with pytest.raises(PartitionError, match=f"alpha is {alpha}"):
            dirichlet(numbered(10), 2, alpha, 0)

    def test_block(self) -> None:
        with pytest.raises(PartitionError, match="block is 0"):
            iid(numbered(10), 2, 0, block=0)

    def test_fewer_blocks_than_clients(self) -> None:
        with pytest.raises(PartitionError, match="10 training rows are 2 blocks of 5"):
            iid(numbered(10), 3, 0, block=5)


class TestIid:
    def test_equal_shares(self) -> None:
        assert sorted(len(part.rows) for part in iid(numbered(103), 4, 0)) == [25, 26, 26, 26]

    def test_blocks_stay_whole(self) -> None:
        for part in iid(numbered(100, 50), 3, 0, block=10):
            for rows in (part.rows, part.test_rows):
                for start in np.unique(rows[:, 0] // 10) * 10:
                    assert set(np.arange(start, start + 10)) <= set(rows[:, 0])


class TestContiguous:
    def test_each_client_gets_a_run(self) -> None:
        assert [part.rows[:, 0].tolist() for part in contiguous(numbered(6), 3)] == [[0, 1], [2, 3], [4, 5]]


class TestDirichlet:
    def spread(self, alpha: float) -> float:
        """Distance of the clients' means, in standard deviations of the rows."""
        whole = numbered(2000)
        whole.rows[:, 1:] = whole.rows[:, :1] + whole.rows[:, 1:]
        means = [part.rows.mean(axis=0) for part in dirichlet(whole, 5, alpha, 3)]
        return float((np.std(means, axis=0) / whole.rows.std(axis=0)).mean())

    def test_the_smaller_alpha_the_more_clients_differ(self) -> None:
        assert self.spread(0.05) > 3 * self.spread(100)

    @pytest.mark.parametrize("value", [0.0, 7.0, 3e38])
    def test_rows_that_are_all_the_same(self, value: float) -> None:
        rows = np.full((20, 2), value, np.float32)
        parts = dirichlet(Partition("edge", Schema(("a", "b")), rows, rows[:0], None), 4, 0.5, 0)
        assert sum(len(part.rows) for part in parts) == 20


class TestByColumn:
    def file(self, folder: Path, text: str) -> Path:
        path = folder / "all.csv"
        path.write_text(text)
        return path

    def test_values_name_clients_and_are_no_feature(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, "cpu,rack,split,label\n1,10,0,0\n2,9,0,0\n3,10,1,1\n")
        nine, ten = by_column(path, "rack", SETTINGS)
        assert (nine.name, ten.name) == ("9", "10")
        assert ten.schema.features == ("cpu",)
        assert (ten.rows.tolist(), ten.test_rows.tolist()) == ([[1]], [[3]])
        assert ten.test_labels is not None and ten.test_labels.tolist() == [1]
        assert (nine.rows.tolist(), nine.test_labels) == ([[2]], None)

    def test_an_unknown_column(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no column 'site'; it has cpu"):
            by_column(self.file(tmp_path, "cpu\n1\n"), "site", SETTINGS)

    def test_a_client_without_training_rows(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, "cpu,site,split\n1,a,0\n2,b,1\n")
        with pytest.raises(PartitionError, match="client 'b' of column 'site' has no training rows"):
            by_column(path, "site", SETTINGS)

    @pytest.mark.parametrize("value", ["../up", "a b", "-a", "x" * 65])
    def test_a_value_that_cannot_name_a_client(self, tmp_path: Path, value: str) -> None:
        with pytest.raises(PartitionError, match="cannot name a client"):
            by_column(self.file(tmp_path, f"cpu,site\n1,{value}\n"), "site", SETTINGS)
