"""Pictures of an evaluation's first seed: precision against recall, and each client's scores over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.metrics import DAY_S
from flockwatch.quality.protocol import FEDERATED, TRAINED, Done, Judged, Labelled
from flockwatch.quality.table import NAMES
from flockwatch.quality.vus import runs

COLOURS = {
    "local_only": "#999999", "local_fleet_scaler": "#56b4e9", "pooled": "#e69f00", FEDERATED: "#0072b2",
}  # fmt: skip
FAULT = "#d55e00"
ACROSS = 4
DPI = 100


def draw(folder: Path, clients: Sequence[Labelled], finished: Sequence[Done]) -> list[Path]:
    """Write `precision-recall.png` and a `timeline-CLIENT.png` for each client; the files.

    Args:
        folder: Exists.
        clients: The fleet.
        finished: What was worked out for it.
    """
    first = min(d.job.seed for d in finished)
    judged = {
        row: {j.client: j for j in d.judged[row]}
        for d in finished
        if d.job.seed == first and d.job.fold is None
        for row in d.judged
    }
    drawn = [_precision_recall(folder, clients, judged)]
    return drawn + [_timeline(folder, c, judged[FEDERATED][c.partition.name]) for c in clients]


def _precision_recall(
    folder: Path, clients: Sequence[Labelled], judged: dict[str, dict[str, Judged]]
) -> Path:
    """One panel for each client that has anomalies and normal events, and a line for each autoencoder."""
    from sklearn.metrics import precision_recall_curve

    shown = [c for c in clients if judged[FEDERATED][c.partition.name].figures["auroc"] is not None]
    down = max(1, math.ceil(len(shown) / ACROSS))
    figure = _figure(3 * ACROSS, 2.6 * down + 0.5)
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, client in zip(panels, shown, strict=False):
        name, labels = client.partition.name, client.anomalies
        for row in (*TRAINED, FEDERATED):
            precision, recall, _ = precision_recall_curve(labels, judged[row][name].scores)
            width = 1.8 if row == FEDERATED else 1.0
            panel.plot(recall, precision, color=COLOURS[row], linewidth=width, label=NAMES[row])
        panel.axhline(labels.mean(), color=FAULT, linewidth=0.8, linestyle=":", label="share of anomalies")
        panel.set_title(name, fontsize=9)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.02)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    if shown:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return _saved(figure, folder / "precision-recall.png")


def _timeline(folder: Path, client: Labelled, judged: Judged) -> Path:
    """The federated score of each test event, the live detector's threshold, and the labelled faults."""
    figure = _figure(11, 2.8)
    axes = figure.subplots()
    days = np.arange(len(judged.scores)) * client.interval_s / DAY_S
    labels = client.anomalies
    for number, span in enumerate(runs(labels)):
        end = days[span.stop - 1] + client.interval_s / DAY_S
        name = "labelled fault" if number == 0 else None
        axes.axvspan(days[span.start], end, color=FAULT, alpha=0.25, linewidth=0, label=name)
    axes.plot(days, _positive(judged.scores), color=COLOURS[FEDERATED], linewidth=0.6, label="score")
    axes.plot(days, judged.thresholds, color="black", linewidth=1.0, label="threshold")
    axes.set_yscale("log")
    axes.set_xlim(days[0], days[-1])
    axes.set_xlabel("days of test rows", fontsize=9)
    axes.set_title(client.partition.name, fontsize=9, loc="left")
    axes.legend(loc="upper right", fontsize=8, ncols=3)
    return _saved(figure, folder / f"timeline-{client.partition.name}.png")


def _positive(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores as a logarithmic axis can show them."""
    smallest = scores[scores > 0].min(initial=1.0)
    raised: NDArray[np.float32] = np.maximum(scores, smallest)
    return raised


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path
