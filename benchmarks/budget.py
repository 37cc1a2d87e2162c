"""`make bench-budget`: false incidents per day on real data, by alert budget and by a fixed quantile.

Twelve machines train one model. Each then replays its month of training rows and its two weeks of test rows
through a live detector. The threshold comes from a budget of one incident per day, or is the quantile
`QUANTILE` of the scores of held-out training rows. An incident is false if none of its rows is labelled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import publish
from client.data.partition import Partition, data_files, read_partition
from client.data.training_buffer import BufferedRows
from client.versions.trial import buffer_scores
from common.model.manifest import Manifest
from common.packages import python_module
from common.settings import Settings
from flockwatch.quality.stream import replay_scores, score_stream
from flockwatch.quality.vus import runs

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
ROUNDS = 30
INTERVAL_S = 300.0
"""Time between two rows of a machine."""
ROWS_PER_DAY = 86400 / INTERVAL_S
QUANTILE = 0.995


@dataclass(frozen=True)
class Incidents:
    """The incidents that one threshold raised on one machine's test rows."""

    false_per_day: float
    detected: int
    """Labelled faults that overlap an incident."""


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
            faults = runs(partition.test_labels == 1)
            results = {
                "budget": _replayed(partition, manifest, settings),
                "quantile": _replayed(
                    partition, manifest,
                    settings.with_values(threshold={"value": _quantile(partition, manifest)}),
                ),
            }  # fmt: skip
            figures[partition.name] = {name: round(r.false_per_day, 2) for name, r in results.items()}
            rows.append(
                [partition.name, *(f"{r.false_per_day:.2f}" for r in results.values()),
                 *(f"{r.detected} of {len(faults)}" for r in results.values())]
            )  # fmt: skip
    means = {k: round(float(np.mean([f[k] for f in figures.values()])), 2) for k in ("budget", "quantile")}
    rows.append(["mean", f"{means['budget']:.2f}", f"{means['quantile']:.2f}", "", ""])
    publish(
        "budget",
        f"asd: false incidents per day of normal rows, and labelled faults detected: threshold by a budget "
        f"of 1 per day, and by the {QUANTILE:.1%} quantile of held-out scores",
        ["", "false, budget", "false, quantile", "detected, budget", "detected, quantile"],
        rows,
        budget_per_day=1,
        false_per_day=means,
        servers=figures,
    )


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


def _replayed(partition: Partition, manifest: Manifest, settings: Settings) -> Incidents:
    """Replay the training rows and then the test rows; count the incidents on the test rows."""
    spans = replay_scores(score_stream(manifest, partition), settings, INTERVAL_S).incidents
    labels = partition.test_labels == 1
    false = sum(not labels[span].any() for span in spans)
    detected = sum(any(s.start < f.stop and f.start < s.stop for s in spans) for f in runs(labels))
    return Incidents(false * ROWS_PER_DAY / int((~labels).sum()), detected)


def _quantile(partition: Partition, manifest: Manifest) -> float:
    """Return the `QUANTILE` of the scores of the held-out training rows."""
    held_out = partition.rows[-round(len(partition.rows) * manifest.settings.training.holdout) :]
    breaks = np.zeros(len(held_out), np.bool_)
    breaks[0] = True
    scores = buffer_scores(manifest.aligned(partition.schema), BufferedRows(held_out, breaks))
    return float(np.quantile(scores, QUANTILE))


if __name__ == "__main__":
    main()
