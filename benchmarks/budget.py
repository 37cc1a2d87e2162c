"""`make bench-budget`: false notices per day on real data, by alert budget and by a fixed quantile.

Twelve machines train one model. Each then replays its month of training rows and its two weeks of test rows
through a live detector. The threshold comes from a budget of one incident per day, or is the quantile
`QUANTILE` of the scores of held-out training rows. A notice is false if its incident begins outside faults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.results import publish
from client.buffers.training_buffer import BufferedRows
from client.data.files.partitions import data_files, read_partition
from client.data.partition import Partition
from client.versions.trial import buffer_scores
from common.model.manifest import Manifest
from common.processes.packages import python_module
from common.settings import Settings
from flockwatch.quality.metrics import AlertMetrics
from flockwatch.quality.stream import replay_rows

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
ROUNDS = 30
INTERVAL_S = 300.0
"""Time between two rows of a machine."""
QUANTILE = 0.995
FIGURES = ("false_notices_per_day", "alarm_hours_per_day", "faults_found")
"""Metrics of each machine, without None: all have faults and normal rows."""


def main() -> None:
    """Train, replay and publish the table."""
    if not DATA.is_dir():
        sys.exit(f"no data: {DATA} does not exist; set FLOCKWATCH_DATA to the folder that contains asd/")
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="bench-budget-") as place:
        manifest = _trained(Path(place))
        rows, figures = [], {}
        for file in data_files(DATA):
            partition = read_partition(file, settings.data)
            fixed = settings.with_values(threshold={"value": _quantile(partition, manifest)})
            figures[partition.name] = {
                "budget": _replayed(partition, manifest, settings),
                "quantile": _replayed(partition, manifest, fixed),
            }
            rows.append([partition.name, *_cells(figures[partition.name])])
    means = {
        way: {f: round(float(np.mean([m[way][f] for m in figures.values()])), 2) for f in FIGURES}
        for way in ("budget", "quantile")
    }
    rows.append(["mean", *_cells(means)])
    publish(
        "budget",
        f"asd: false notices and hours in alarm per day of normal rows, and share of the faults found: "
        f"threshold by a budget of 1 per day, and by the {QUANTILE:.1%} quantile of held-out scores",
        ["", *(f"{figure}, {way}" for figure in ("false", "hours", "found") for way in means)],
        rows,
        budget_per_day=1,
        means=means,
        servers=figures,
    )


def _cells(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"{of_way[figure]:.2f}" for figure in FIGURES for of_way in figures.values()]


def _trained(folder: Path) -> Manifest:
    """Train with `flockwatch local` and return the newest model version."""
    settings = {"federation.max_rounds": ROUNDS, "federation.patience": 0, "local.compare": "false"}
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
    command = [
        *python_module("flockwatch"),
        "local",
        "--data",
        str(DATA),
        "--runs",
        str(folder),
        *flags,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=1200)
    newest = max(folder.glob("*/server/versions/*.safetensors"))
    return Manifest.unpack(newest.read_bytes())


def _replayed(partition: Partition, manifest: Manifest, settings: Settings) -> dict[str, float]:
    """Replay the training rows and then the test rows; return `FIGURES` of the test rows."""
    replay = replay_rows(manifest, partition, settings, INTERVAL_S)
    labels = partition.test_labels == 1
    metrics = asdict(AlertMetrics.of(labels, replay.alerts, replay.incidents, INTERVAL_S))
    return {figure: round(metrics[figure], 2) for figure in FIGURES}


def _quantile(partition: Partition, manifest: Manifest) -> float:
    """Return the `QUANTILE` of the scores of the held-out training rows."""
    held_out = partition.rows[-round(len(partition.rows) * manifest.settings.training.holdout) :]
    breaks = np.zeros(len(held_out), np.bool_)
    breaks[0] = True
    scores = buffer_scores(manifest.aligned(partition.schema), BufferedRows(held_out, breaks))
    return float(np.quantile(scores, QUANTILE))


if __name__ == "__main__":
    main()
