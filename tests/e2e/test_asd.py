"""The whole federation on the real telemetry of twelve servers, held against figures from plain Keras."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.processes.packages import python_module

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "asd"

PLAIN_KERAS = {"federated": (0.784, 0.316), "pooled": (0.795, 0.359), "local_only": (0.812, 0.390)}
"""AUROC and average precision, mean over the servers: window 10, 64-16-64, fleet scaler, 60 rounds."""
PLAIN = (
    "detector.family=autoencoder",
    "scaling.by=fleet",
    "scaling.clip=null",
    "scoring.normalise=false",
    "scoring.decay=1",
    "scoring.personal_epochs=0",
)
"""Federated averaging as those figures had it, without what flockwatch adds."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not DATA.is_dir():
        pytest.skip(f"no real data: {DATA} does not exist; FLOCKWATCH_DATA can name the folder above it")
    sixty = ("--set", "federation.max_rounds=60", "--set", "federation.patience=0")
    return local(tmp_path_factory.mktemp("runs"), *sixty)


def local(runs: Path, *flags: str) -> dict[str, Any]:
    plain = [part for setting in PLAIN for part in ("--set", setting)]
    command = [*python_module("flockwatch"), "local", "--data", str(DATA), "--runs", str(runs)]
    command += [*plain, *flags]
    subprocess.run(command, check=True, timeout=800, capture_output=True)
    (result,) = runs.glob("*/report.json")
    return json.loads(result.read_text())


def test_twelve_processes_train_to_the_end_and_every_one_answers(report: dict[str, Any]) -> None:
    assert report["reason"] == "60 rounds done"
    assert [r["answered"] for r in report["rounds"]] == [12] * 61
    assert report["totals"]["error_after"] < 0.3 * report["totals"]["error_before"]


@pytest.mark.parametrize("way", PLAIN_KERAS)
def test_detection_is_as_good_as_plain_keras(report: dict[str, Any], way: str) -> None:
    auroc, average_precision = PLAIN_KERAS[way]
    result = report["totals"][way]
    assert result["auroc"] == pytest.approx(auroc, abs=0.02)
    # The floor of each feature's spread is not part of plain Keras, and adds about 0.03.
    assert average_precision - 0.03 < result["average_precision"] < average_precision + 0.06


def test_chance_is_far_behind(report: dict[str, Any]) -> None:
    totals = report["totals"]
    assert totals["random"]["auroc"] == pytest.approx(0.5, abs=0.06)
    assert totals["federated"]["average_precision"] > 4 * totals["random"]["average_precision"]


def test_per_round_figures_add_up(report: dict[str, Any]) -> None:
    assert [r["version"] for r in report["rounds"]] == [*range(1, 61), 60]
    for r in report["rounds"]:
        assert r["bytes_up"] == sum(reply["bytes_up"] for reply in r["replies"])
        rows = sum(reply["rows"] for reply in r["replies"])
        mean = sum(reply["rows"] * reply["error"]["mean"] for reply in r["replies"]) / rows
        assert r["error"] == pytest.approx(mean)


def test_by_default_the_run_continues_until_it_has_converged(report: dict[str, Any], tmp_path: Path) -> None:
    converged = local(tmp_path, "--set", "local.compare=false")
    assert converged["reason"] == "converged: no improvement in 10 rounds"
    assert converged["totals"]["error_after"] < report["totals"]["error_after"]
    errors = [r["error"] for r in converged["rounds"]]
    assert min(errors[-11:]) > 0.97 * errors[-12]
