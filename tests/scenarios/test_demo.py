"""`make demo` with fewer rounds: training, then live streams, a fault, its alert and its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.processes.packages import python_module

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The output of the command, and its report."""
    runs = tmp_path_factory.mktemp("runs")
    flags = ["--set", "federation.max_rounds=25", "--set", "local.compare=false", "--runs", str(runs)]
    command = [*python_module("flockwatch"), "local", "--config", str(CONFIG), *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=550)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(runs) in (p.info["cmdline"] or [])]
    (report,) = runs.glob("*/report.json")
    return done.stdout, json.loads(report.read_text())


def test_the_fault_is_reported_with_its_cause_and_its_end(run: tuple[str, dict[str, Any]]) -> None:
    printed, report = run
    live = report["live"]
    assert live["fault"] == {"client": "machine-2", "feature": "temperature_c"}
    started, ended = (n for n in live["notices"] if n["client"] == "machine-2")
    assert (started["kind"], ended["kind"]) == ("incident_started", "incident_ended")
    assert started["id"] == ended["id"]
    assert started["alert"]["causes"][0]["feature"] == "temperature_c"
    assert started["alert"]["version"] == report["version"]
    assert re.search(r"machine-2: ALERT, score [\d.]+ above the threshold", printed)
    assert re.search(r"temperature_c +\d+% of the error: measured [\d.]+, expected [\d.]+", printed)
    assert re.search(r"machine-2: the incident is over", printed)


def test_the_latency_of_every_client_is_reported(run: tuple[str, dict[str, Any]]) -> None:
    printed, report = run
    assert sorted(report["live"]["latency_us"]) == ["machine-1", "machine-2", "machine-3"]
    assert re.search(r"verdict: \d+ us \(median\), \d+ us \(99th percentile\)", " ".join(printed.split()))


def test_without_rows_to_play_no_process_is_started(tmp_path: Path) -> None:
    command = [
        *python_module("flockwatch"), "local", "--set", "local.live=true",
        "--set", "local.generate=normal", "--runs", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=dict(os.environ))
    assert done.returncode == 2
    assert (
        "'local.live' needs 120 consecutive test rows without a labelled fault; client-1 has none"
        in done.stderr
    )
