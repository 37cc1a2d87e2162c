"""`flockwatch evaluate` from files to figures, on a small generated fleet."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from client.data.files.csv_text import DataError
from client.data.files.partitions import read_partition, write_partition
from client.data.partition import Partition
from common.config import ConfigError
from common.model.schema import Schema, SchemaError
from common.processes.packages import python_module
from common.settings import DataSettings, Settings
from flockwatch.cli import main
from flockwatch.quality.evaluation import read_clients
from flockwatch.quality.jobs import METHODS, ClientResult
from flockwatch.quality.metrics import METRICS
from flockwatch.quality.report import key_values, margins
from flockwatch.quality.table import tables
from flockwatch.simulation import telemetry

SMALL = {
    "model.window": "2", "model.hidden": "[8, 4, 8]", "training.batch_size": "64",
    "federation.max_rounds": "15", "federation.patience": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output of an evaluation, and its folder."""
    place = tmp_path_factory.mktemp("evaluate")
    telemetry.write(telemetry.record(4, 300, 700, seed=5), place / "data")
    no_test_rows = telemetry.fleet(1, 300, 0, seed=5)[0]
    write_partition(no_test_rows, place / "data" / "untested.parquet", DataSettings())
    flags = [flag for item in SMALL.items() for flag in ("--set", "=".join(item))]
    done = subprocess.run(
        [
            *python_module("flockwatch"), "evaluate", "--data", str(place / "data"), "--seeds", "2",
            "--new-client", "100", "--runs", str(place / "runs"), *flags,
        ],
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "runs").iterdir()
    return done.stdout, folder


@pytest.fixture(scope="module")
def figures(run: tuple[str, Path]) -> dict[str, Any]:
    return json.loads((run[1] / "quality.json").read_text())


def test_every_method_has_every_metric_and_a_spread(figures: dict[str, Any]) -> None:
    assert list(figures["rows"]) == list(METHODS)
    assert (figures["clients"], figures["seeds"], figures["rounds"]) == (4, [0, 1], [15, 15])
    assert figures["interval_s"] == [60.0]  # from the files' own times
    for row, result in figures["rows"].items():
        for name in ("auroc", "average_precision", "vus_pr", "best_f1", "f1", "faults_found"):
            assert 0 <= result[name]["worst"] <= result[name]["median"] <= 1
            assert result[name]["spread"] is not None
        for name in ("false_notices_per_day", "alarm_hours_per_day"):
            assert 0 <= result[name]["median"] <= result[name]["worst"]
        assert (result["alarm_hours_per_day"]["mean"] == 24) == (row == "always")
    assert figures["rows"]["distance"]["auroc"]["spread"] == 0
    assert figures["rows"]["random"]["auroc"]["spread"] > 0
    assert figures["rows"]["federated"]["auroc"]["mean"] > figures["rows"]["random"]["auroc"]["mean"] + 0.03


def test_means_are_those_of_the_clients(figures: dict[str, Any]) -> None:
    assert len(figures["by_client"]) == 4
    for row in METHODS:
        of_clients = [client[row]["auroc"] for client in figures["by_client"].values()]
        assert figures["rows"][row]["auroc"]["mean"] == pytest.approx(np.mean(of_clients))


def test_new_clients_are_all_clients_once(figures: dict[str, Any]) -> None:
    new = figures["new_clients"]
    assert new["training_rows_of_each"] == 100
    assert set(new["rows"]) == {
        "local_only",
        "local_fleet_scaler",
        "federated",
        "federated_autoencoder",
        "fleet_pca",
        "fleet_gaussian",
        "fleet_forest",
    }
    assert new["rows"]["federated"]["auroc"]["mean"] > 0.5


def test_the_table_names_every_method_and_the_margin(run: tuple[str, Path], figures: dict[str, Any]) -> None:
    output = run[0]
    for name in (
        "random scores",
        "one-class SVM",
        "pooled: all data in one place",
        "federated",
        "New clients",
    ):
        assert name in output
    assert f"{figures['rows']['federated']['auroc']['mean']:.3f} +-" in output
    assert f"AP: federated {figures['margin']['average_precision']['mean']:+.3f}" in output
    assert "15, 15 rounds" in output


def test_a_client_without_test_rows_is_named_and_left_out(
    run: tuple[str, Path], figures: dict[str, Any]
) -> None:
    assert list(figures["left_out"]) == ["untested"]
    assert run[0].count("untested.parquet: no labelled test rows") == 2  # before the jobs, and in the report
    assert "untested" not in figures["by_client"]


def test_no_line_of_a_file_is_cut_or_wrapped(run: tuple[str, Path]) -> None:
    assert "…" not in run[0]
    last = [line for line in run[0].splitlines() if "open incident" in line and "delay" in line]
    assert len(last) == 2  # the table of the fleet, and that of new clients
    assert all(line.split()[:4] == ["F1", "per", "day", "per"] for line in last)


def test_pictures_are_there(run: tuple[str, Path]) -> None:
    names = {path.name for path in run[1].iterdir()}
    assert {"quality.json", "precision-recall.png"} < names
    assert sum(name.startswith("timeline-") for name in names) == 4
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in run[1].glob("*.png"))


def test_the_key_values_have_the_names_that_benchmarks_record(figures: dict[str, Any]) -> None:
    values = key_values(figures)
    for name in ("federated", "local", "local_fleet_scaler", "pooled"):
        for figure in ("ap", "auroc"):
            assert 0 < values[f"{name}_{figure}"] < 1
            assert values[f"{name}_{figure}_spread"] >= 0
    assert values["new_clients"]["federated_ap"] > 0
    best = max(values[f"{name}_ap"] for name in ("local", "local_fleet_scaler", "pooled"))
    assert values["margin_ap"] == pytest.approx(values["federated_ap"] - best, abs=2e-4)


def test_a_margin_is_the_lead_over_the_best_other_method_averaged_over_seeds() -> None:
    def results(value: float) -> list[ClientResult]:
        figures = dict.fromkeys(("average_precision", "auroc", "vus_pr"), value)
        return [ClientResult("a", figures, np.zeros(1, np.float32), np.zeros(1, np.float32))]

    runs = {
        "federated": {0: results(0.5), 1: results(0.7)},
        "pooled": {0: results(0.4), 1: results(0.65)},
        "local_only": {0: results(0.6), 1: results(0.1)},
    }
    result = margins(runs, ["pooled", "local_only"])["auroc"]
    assert result["over"] == "pooled"
    assert result["mean"] == pytest.approx(0.075)
    assert result["spread"] == pytest.approx(np.std([0.1, 0.05], ddof=1))


# Wrong data is refused before any job runs.


def file(
    folder: Path, name: str, labels: bool = True, features: tuple[str, ...] = ("a", "b"), training: int = 120
) -> None:
    rows = np.random.default_rng(0).random((training + 20, len(features))).astype(np.float32)
    known = np.zeros(20, np.int8) if labels else None
    folder.mkdir(exist_ok=True)
    part = Partition(name, Schema(features), rows[:training], rows[training:], known)
    write_partition(part, folder / f"{name}.parquet", DataSettings())


def settings(folder: Path | None) -> Settings:
    return Settings().with_values(evaluate={"data": folder})


def test_a_folder_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"'evaluate\.data' is not set"):
        read_clients(settings(None))


def test_clients_that_cannot_be_measured_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    file(tmp_path / "data", "one")
    file(tmp_path / "data", "two", labels=False)
    file(tmp_path / "data", "three", training=60)
    clients, left_out = read_clients(settings(tmp_path / "data"))
    assert [client.partition.name for client in clients] == ["one"]
    assert "two.parquet: no labelled test rows; expected 'split' with 1" in left_out["two"]
    assert "three.parquet: 60 training rows, of which 6 are held out; a window needs 10" in left_out["three"]
    wide = settings(tmp_path / "data").with_values(model={"window": 6})
    assert [client.partition.name for client in read_clients(wide)[0]] == ["one", "three"]


def test_a_folder_without_a_client_that_can_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file(tmp_path / "data", "two", labels=False)
    with pytest.raises(DataError, match=r"no client can be evaluated:\n.*two\.parquet: no labelled"):
        read_clients(settings(tmp_path / "data"))
    assert main(["evaluate", "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]) == 2
    assert "two.parquet: no labelled test rows" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_clients_of_other_features_are_named_and_another_order_is_not_a_difference(tmp_path: Path) -> None:
    file(tmp_path / "data", "one")
    file(tmp_path / "data", "two", features=("b", "a"))
    assert {c.partition.schema for c in read_clients(settings(tmp_path / "data"))[0]} == {Schema(("a", "b"))}
    file(tmp_path / "data", "three", features=("a", "c"))
    with pytest.raises(SchemaError, match="client 'three'"):
        read_clients(settings(tmp_path / "data"))


def test_the_interval_is_that_of_the_settings_or_of_the_file_or_not_known(tmp_path: Path) -> None:
    file(tmp_path / "data", "one")
    assert [c.interval_s for c in read_clients(settings(tmp_path / "data"))[0]] == [None]
    chosen = settings(tmp_path / "data").with_values(threshold={"interval_s": 5.0})
    assert [c.interval_s for c in read_clients(chosen)[0]] == [5.0]


@pytest.mark.parametrize(
    ("timed", "expected"),
    [(True, ["per day", "hours in alarm", "3.0 (2.0, 5.0)"]), (False, ["of 1,000 events", "7.0 (6.0, 9.0)"])],
)
def test_figures_are_per_day_where_the_time_is_known_and_of_1000_events_elsewhere(
    timed: bool, expected: list[str]
) -> None:
    values = dict.fromkeys(METRICS, dict.fromkeys(("mean", "spread", "median", "worst")))
    values["alarm_hours_per_day"] = {"mean": 3.0, "spread": None, "median": 2.0, "worst": 5.0}
    values["alarm_events_per_1000"] = {"mean": 7.0, "spread": None, "median": 6.0, "worst": 9.0}
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(*tables({"timed": timed, "rows": {"federated": values}}))
    text = console.export_text()
    assert all(words in text for words in expected)
    assert ("hours" in text) == timed


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("0,300,600,5000,5300", 300.0),
        ("2026-01-01T00:00:00Z,2026-01-01T00:00:10Z,2026-01-01T00:00:20Z", 10.0),
        ("1700000000000,1700000001000,1700000002500", 1.25),
        ("noon,later,never", None),
        ("7,7,7", None),
        ("7", None),
    ],
)
def test_time_stamps_give_the_interval(times: str, expected: float | None, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("ts,a\n" + "".join(f"{time},1\n" for time in times.split(",")))
    assert read_partition(path, DataSettings()).interval_s == expected
