"""`make bench-budget`: false alerts a day on real servers, with a budget of one, and with a guessed quantile.

Twelve servers learn together; then each replays its month of training rows and its two weeks of test rows
through a live detector, whose threshold nobody set. An alert is an incident; it is false if no row from its
start to its end is labelled.
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
from client.data.partition import Partition, files, read
from client.data.training_buffer import BufferedRows
from client.versions.trial import buffer_scores
from common.model.manifest import Manifest
from common.packages import python_module
from common.settings import Settings
from flockwatch.quality.stream import replayed, scored
from flockwatch.quality.vus import runs

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
ROUNDS = 30
INTERVAL_S = 300.0
"""The servers' rows are five minutes apart."""
DAY = 86400 / INTERVAL_S
QUANTILE = 0.995


@dataclass(frozen=True)
class Alerts:
    """What one threshold made of one server's test rows."""

    false_per_day: float
    found: int
    """Labelled faults that an incident overlaps."""


def main() -> None:
    """Train, replay, and print the table."""
    if not DATA.is_dir():
        sys.exit(f"no real data: {DATA} does not exist; FLOCKWATCH_DATA can name the folder above it")
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="bench-budget-") as place:
        manifest = _trained(Path(place))
        rows, figures = [], {}
        for file in files(DATA):
            partition = read(file, settings.data)
            faults = runs(partition.test_labels == 1)
            kinds = {
                "budget": _replayed(partition, manifest, settings),
                "quantile": _replayed(
                    partition, manifest,
                    settings.with_values(threshold={"value": _quantile(partition, manifest)}),
                ),
            }  # fmt: skip
            figures[partition.name] = {name: round(a.false_per_day, 2) for name, a in kinds.items()}
            rows.append(
                [partition.name, *(f"{a.false_per_day:.2f}" for a in kinds.values()),
                 *(f"{a.found} of {len(faults)}" for a in kinds.values())]
            )  # fmt: skip
    means = {k: round(float(np.mean([f[k] for f in figures.values()])), 2) for k in ("budget", "quantile")}
    rows.append(["mean", f"{means['budget']:.2f}", f"{means['quantile']:.2f}", "", ""])
    publish(
        "budget",
        f"asd: false alerts a day on normal rows; a budget of 1 per day, and the {QUANTILE:.1%} quantile of "
        "held-out rows",
        ["", "budget", "quantile", "faults found", "by quantile"],
        rows,
        budget_per_day=1,
        false_per_day=means,
        servers=figures,
    )


def _trained(folder: Path) -> Manifest:
    """The version that the servers learn together."""
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


def _replayed(partition: Partition, manifest: Manifest, settings: Settings) -> Alerts:
    """The alerts on the test rows, once the training rows have passed through the same detector."""
    spans = replayed(scored(manifest, partition), settings, INTERVAL_S).incidents
    labels = partition.test_labels == 1
    false = sum(not labels[span].any() for span in spans)
    found = sum(any(s.start < f.stop and f.start < s.stop for s in spans) for f in runs(labels))
    return Alerts(false * DAY / int((~labels).sum()), found)


def _quantile(partition: Partition, manifest: Manifest) -> float:
    """Of the scores of the training rows that were held out."""
    held = partition.rows[-round(len(partition.rows) * manifest.settings.training.holdout) :]
    breaks = np.zeros(len(held), np.bool_)
    breaks[0] = True
    return float(
        np.quantile(buffer_scores(manifest.aligned(partition.schema), BufferedRows(held, breaks)), QUANTILE)
    )


if __name__ == "__main__":
    main()
