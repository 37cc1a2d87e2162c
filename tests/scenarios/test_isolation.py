"""flockwatch runs in a directory whose files and folders have the names of its packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.processes.children import Processes
from tests.scenarios.fleet import Federation
from tests.scenarios.live import Machine, train_together
from tests.scenarios.test_live import FLAGS, SERVER
from tests.waiting import PATIENCE_S

DECOY = "raise RuntimeError('imported from the working directory')\n"
COMMAND = str(Path(sys.executable).parent / "flockwatch")


@pytest.fixture
def decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with decoys: two packages, and one module beside an empty folder."""
    folder = tmp_path / "decoys"
    for name in ("client", "common", "server"):
        (folder / name).mkdir(parents=True)
    for file in ("client/__init__.py", "common.py", "server/__init__.py"):
        (folder / file).write_text(DECOY)
    monkeypatch.chdir(folder)
    return folder


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)  # type: ignore[call-overload]


def test_local_and_detect_work(decoys: Path) -> None:
    settings = {
        "federation.max_rounds": 2, "local.clients": 2, "local.rows": 300, "local.compare": "false",
        "model.window": 2, "model.hidden": "[4]",
    }  # fmt: skip
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
    done = run(COMMAND, "local", *flags)
    assert done.returncode == 0, done.stderr
    (folder,) = Path("runs").iterdir()
    version, rows = (
        folder / "server" / "versions" / "v000002.safetensors",
        folder / "data" / "machine-1.parquet",
    )
    alerts = Path("alerts.jsonl")
    done = run(
        COMMAND, "detect", "--manifest", str(version), "--source", f"file:{rows}", "--sink", f"file:{alerts}",
        "--set", "threshold.value=0.0001",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(alerts.read_text().splitlines()[0])["kind"] == "incident_started"


def test_server_clients_and_detect_work(
    decoys: Path, processes: Processes, federation: Callable[..., Federation], tmp_path: Path
) -> None:
    fleet = federation(SERVER)
    fleet.start_server()
    machines = [Machine(tmp_path, processes, name, fleet.address, flags=FLAGS) for name in ("one", "two")]
    train_together(fleet, machines)
    version = fleet.state / "versions" / "v000008.safetensors"
    detector = Machine(tmp_path, processes, "three", flags=FLAGS, manifest=version)
    detector.start()
    detector.feed(200)  # more than the warm-up, in which a version of the fleet gives no verdicts
    for machine in (*machines, detector):
        machine.send_fault()
        machine.expect_incidents(1)


@pytest.mark.parametrize("by", ["python -m", "PYTHONPATH"])
def test_a_process_that_would_import_a_decoy_ends_with_one_line(decoys: Path, by: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}  # other tests may set it
    if by == "python -m":
        done = run(sys.executable, "-m", "flockwatch", "status", env=environment)
    else:
        path = f"{decoys}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        done = run(COMMAND, "status", env={**environment, "PYTHONPATH": path})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"flockwatch: Python finds the package 'client' at {decoys}/client")
