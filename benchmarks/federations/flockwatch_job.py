"""Run the training job of the round benchmark with `flockwatch local`: one process per client and server."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from benchmarks.federations import job
from common.processes.packages import python_module

_ROUND_LIMIT_S = 20.0
_START_LIMIT_S = 180.0


def command(rounds: int, folder: Path) -> list[str]:
    """Write the clients' data to `folder` and return the command that runs the job."""
    data = folder / "data"
    data.mkdir(parents=True)
    for client in range(job.CLIENTS):
        rows = job.rows(client)
        columns = {f"feature_{i:02d}": rows[:, i] for i in range(job.FEATURES)}
        pyarrow.parquet.write_table(pa.table(columns), data / f"client-{client}.parquet")
    settings = {
        "model.window": 1,
        "model.hidden": list(job.HIDDEN),
        "training.epochs": job.EPOCHS,
        "training.batch_size": job.BATCH,
        "training.holdout": job.HOLDOUT,
        "scaling.by": "none",
        "federation.max_rounds": rounds,
        "federation.patience": 0,
    }
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={json.dumps(value)}")]
    return [*python_module("flockwatch"), "local", "--data", str(data), "--runs", str(folder), *flags]


def report(folder: Path) -> dict[str, Any]:
    """Return the report of the run in `folder`."""
    (file,) = folder.glob("*/report.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values


def run(rounds: int, folder: Path) -> list[float]:
    """Run the job and return the duration of each round after the first, in seconds.

    A duration is measured from the end of one round to the end of the next. In a round each client evaluates
    the version that it starts from on held-out rows and trains, as a train and an evaluate round of stock
    Flower do.

    Raises:
        RuntimeError: `flockwatch local` failed, or a round ended without an update from every client.
    """
    limit_s = _START_LIMIT_S + _ROUND_LIMIT_S * rounds
    done = subprocess.run(
        command(rounds, folder), capture_output=True, text=True, timeout=limit_s, check=False
    )
    if done.returncode:
        raise RuntimeError(f"flockwatch local ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    trained = [r for r in report(folder)["rounds"] if r["kind"] == "train"]
    if [r["answered"] for r in trained] != [job.CLIENTS] * rounds:
        raise RuntimeError(f"expected {job.CLIENTS} updates per round: {[r['answered'] for r in trained]}")
    return [after["ended_at"] - before["ended_at"] for before, after in itertools.pairwise(trained)]
