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

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import publish
from client.buffer import Kept
from client.data import Partition, files, read
from client.detector import Detector
from client.incidents import Notice
from client.keeper import Keeper
from client.shadow import AtOnce
from client.store import Store
from client.trial import rescored
from common.manifest import Manifest
from common.settings import Settings

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
ROUNDS = 30
INTERVAL_S = 300.0
"""The servers' rows are five minutes apart."""
DAY = 86400 / INTERVAL_S
QUANTILE = 0.995
STEP = 64
"""Events between two looks of the keeper."""


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
        for number, file in enumerate(files(DATA)):
            partition = read(file, settings.data)
            faults = _spans(partition.test_labels == 1)
            kinds = {
                "budget": _replayed(partition, manifest, settings, Path(place) / f"budget-{number}"),
                "quantile": _replayed(
                    partition, manifest,
                    settings.with_values(threshold={"value": _quantile(partition, manifest)}),
                    Path(place) / f"quantile-{number}",
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
        sys.executable,
        "-m",
        "flockwatch",
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


def _replayed(partition: Partition, manifest: Manifest, settings: Settings, folder: Path) -> Alerts:
    """The alerts on the test rows, once the training rows have passed through the same detector."""
    folder.mkdir()
    detector = Detector(partition.name, partition.schema, settings.data, settings.live)
    store = Store(folder)
    store.offer(manifest.pack())
    keeper = Keeper(detector, settings, folder, store, [], trial=AtOnce)
    keeper.tick(save=False)
    notices: list[Notice] = []
    rows = np.concatenate([partition.rows, partition.test_rows])
    lines = [
        msgspec.json.encode({"ts": INTERVAL_S * i, **dict(zip(partition.schema.features, row, strict=True))})
        for i, row in enumerate(rows.astype(float).tolist())
    ]
    for start in range(0, len(lines), STEP):
        notices += detector.step(lines[start : start + STEP], 0.0).notices
        keeper.tick(save=False)
    if (last := detector.incidents.end()) is not None:
        notices.append(last)
    first = len(partition.rows)
    spans = [
        slice(int(n.started / INTERVAL_S) - first, int((n.ended or 0.0) / INTERVAL_S) - first + 1)
        for n in notices
        if n.kind == "incident_ended" and n.started >= INTERVAL_S * first
    ]
    labels = partition.test_labels == 1
    false = sum(not labels[span].any() for span in spans)
    found = sum(any(s.start < f.stop and f.start < s.stop for s in spans) for f in _spans(labels))
    return Alerts(false * DAY / int((~labels).sum()), found)


def _quantile(partition: Partition, manifest: Manifest) -> float:
    """Of the scores of the training rows that were held out."""
    held = partition.rows[-round(len(partition.rows) * manifest.settings["training"]["holdout"]) :]
    breaks = np.zeros(len(held), np.bool_)
    breaks[0] = True
    return float(np.quantile(rescored(manifest.aligned(partition.schema), Kept(held, breaks)), QUANTILE))


def _spans(flags: NDArray[np.bool_]) -> list[slice]:
    """Where runs of true begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


if __name__ == "__main__":
    main()
