from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from client.data.files.partitions import read_partition
from common.settings import DataSettings
from flockwatch.simulation import telemetry
from flockwatch.simulation.telemetry import FAULTS, METRICS, Recording, fleet, record, write

WINDOW = 10


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return record(3, seed=42)


class TestFleet:
    def test_shapes(self, recordings: list[Recording]) -> None:
        assert [r.partition.name for r in recordings] == ["machine-1", "machine-2", "machine-3"]
        for recording in recordings:
            part = recording.partition
            assert part.schema.features == METRICS
            assert part.rows.shape == (4000, len(METRICS))
            assert part.test_rows.shape == (2000, len(METRICS))
            assert part.rows.dtype == part.test_rows.dtype == np.float32
            assert recording.faults.shape == (2000,)

    def test_is_the_partitions_of_record(self, recordings: list[Recording]) -> None:
        for result, recording in zip(fleet(3, seed=42), recordings, strict=True):
            np.testing.assert_array_equal(result.rows, recording.partition.rows)
            np.testing.assert_array_equal(result.test_rows, recording.partition.test_rows)

    def test_another_seed_is_another_fleet(self, recordings: list[Recording]) -> None:
        assert not np.array_equal(fleet(1, seed=43)[0].rows, recordings[0].partition.rows)

    def test_a_larger_fleet_begins_with_the_same_machines(self, recordings: list[Recording]) -> None:
        np.testing.assert_array_equal(fleet(1, seed=42)[0].rows, recordings[0].partition.rows)

    def test_machines_differ(self, recordings: list[Recording]) -> None:
        means = np.stack([r.partition.rows.mean(axis=0) for r in recordings])
        assert (means.std(axis=0) > 0.01 * means.mean(axis=0)).all()

    @pytest.mark.parametrize(("rows", "test_rows"), [(1, 0), (1, 1), (5, 35), (100, 50), (50, 131)])
    def test_small_ones(self, rows: int, test_rows: int) -> None:
        (part,) = fleet(1, rows, test_rows, seed=0)
        assert (len(part.rows), len(part.test_rows)) == (rows, test_rows)
        assert (part.test_labels is None) == (test_rows == 0)

    @pytest.mark.parametrize(
        ("name", "numbers"), [("machines", (0, 1, 1)), ("rows", (1, 0, 1)), ("test_rows", (1, 1, -1))]
    )
    def test_too_small(self, name: str, numbers: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match=f"^{name} is "):
            fleet(*numbers, seed=0)


class TestMetrics:
    def test_ranges(self) -> None:
        for part in fleet(10, rows=3000, seed=7):
            values = np.concatenate([part.rows, part.test_rows])
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            for metric in telemetry.PERCENT:
                assert values[:, METRICS.index(metric)].max() <= 100

    def test_they_follow_the_workload(self, recordings: list[Recording]) -> None:
        for recording in recordings:
            together = np.corrcoef(recording.partition.rows.T)
            for one, other in (
                ("cpu_percent", "latency_ms"),
                ("requests_per_s", "net_out_mb_s"),
                ("cpu_percent", "temperature_c"),
            ):
                assert together[METRICS.index(one), METRICS.index(other)] > 0.8

    def test_temperature_lags_behind_cpu(self, recordings: list[Recording]) -> None:
        for recording in recordings:
            rows = recording.partition.rows
            cpu, heat = (rows[:, METRICS.index(name)] for name in ("cpu_percent", "temperature_c"))
            minutes = np.arange(-60, 61)
            alike = [np.corrcoef(cpu[60:-60], heat[60 + lag : len(heat) - 60 + lag])[0, 1] for lag in minutes]
            assert 3 <= minutes[np.argmax(alike)] <= 30

    def test_there_is_a_day(self, recordings: list[Recording]) -> None:
        for recording in recordings:
            cpu = recording.partition.rows[:, METRICS.index("cpu_percent")]
            half, whole = (np.corrcoef(cpu[:-lag], cpu[lag:])[0, 1] for lag in (720, 1440))
            assert whole > 0.5 > -0.2 > half

    def test_weekends_are_quieter(self) -> None:
        (part,) = fleet(1, rows=14 * 1440, test_rows=0, seed=1)
        days = part.rows[:, METRICS.index("requests_per_s")].reshape(14, 1440).mean(axis=1)
        # A machine's own day begins at its own hour: its weekend lies within Friday to Sunday.
        assert days[[5, 12]].max() < days[[1, 2, 3, 8, 9, 10]].min()


class TestFaults:
    def test_labels_are_the_faults(self, recordings: list[Recording]) -> None:
        for recording in recordings:
            np.testing.assert_array_equal(recording.partition.test_labels == 1, recording.faults != "")

    def test_several_of_every_kind(self, recordings: list[Recording]) -> None:
        assert len(FAULTS) >= 5
        for recording in recordings:
            faults = np.concatenate([[""], recording.faults])
            begins = faults[1:][(faults[1:] != faults[:-1]) & (faults[1:] != "")]
            kinds, counts = np.unique(begins, return_counts=True)
            assert set(kinds) == set(FAULTS)
            assert counts.min() >= 3

    def test_their_share(self) -> None:
        shares = [part.test_labels.mean() for part in fleet(10, seed=3) if part.test_labels is not None]
        assert len(shares) == 10
        assert all(0.03 <= share <= 0.08 for share in shares), shares

    def test_they_can_be_found_but_not_all(self, recordings: list[Recording]) -> None:
        """Sixteen principal components of windows rank faults well above chance, yet not perfectly."""
        for recording in recordings:
            part = recording.partition
            centre, spread = part.rows.mean(axis=0), part.rows.std(axis=0)
            normal, test = (_windows((rows - centre) / spread) for rows in (part.rows, part.test_rows))
            middle = normal.mean(axis=0)
            basis = np.linalg.eigh(np.cov(normal.T))[1][:, -16:]
            rest = (test - middle) - (test - middle) @ basis @ basis.T
            assert part.test_labels is not None
            assert 0.8 < _auroc((rest**2).sum(axis=1), part.test_labels[WINDOW - 1 :]) < 0.97


class TestWrite:
    def test_read_gives_the_fleet_back(self, tmp_path: Path, recordings: list[Recording]) -> None:
        paths = write(recordings, tmp_path / "new" / "folder")
        assert [path.name for path in paths] == [
            "machine-1.parquet",
            "machine-2.parquet",
            "machine-3.parquet",
        ]
        for path, recording in zip(paths, recordings, strict=True):
            result, part = read_partition(path, DataSettings()), recording.partition
            assert (result.name, result.schema) == (part.name, part.schema)
            np.testing.assert_array_equal(result.rows, part.rows)
            np.testing.assert_array_equal(result.test_rows, part.test_rows)
            np.testing.assert_array_equal(result.test_labels, part.test_labels)

    def test_time_and_faults(self, tmp_path: Path, recordings: list[Recording]) -> None:
        table = pyarrow.parquet.read_table(write(recordings[:1], tmp_path)[0])
        assert table.column_names == ["ts", *METRICS, "split", "label", "_fault"]
        times = table["ts"].to_numpy()
        assert times.dtype == np.int64
        assert set(np.diff(times)) == {60}
        faults = table["_fault"].to_pylist()
        assert faults == [""] * 4000 + recordings[0].faults.tolist()
        assert table["label"].to_pylist() == [int(fault != "") for fault in faults]


def _windows(rows: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=0).reshape(len(rows) - WINDOW + 1, -1)


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs of an anomaly and a normal row that the scores rank right."""
    ranks = scores.argsort().argsort() + 1
    anomalies, normals = int(labels.sum()), int((labels == 0).sum())
    return float((ranks[labels == 1].sum() - anomalies * (anomalies + 1) / 2) / (anomalies * normals))
