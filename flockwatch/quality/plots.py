"""Plots of an evaluation's first seed: precision against recall, and each client's scores over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.jobs import FEDERATED, TRAINED, ClientResult, JobResult, LabelledClient
from flockwatch.quality.metrics import DAY_S
from flockwatch.quality.table import METHOD_NAMES
from flockwatch.quality.vus import runs

COLOURS = {
    "local_only": "#999999", "local_fleet_scaler": "#56b4e9", "pooled": "#e69f00", FEDERATED: "#0072b2",
}  # fmt: skip
FAULT = "#d55e00"
COLUMNS = 4
DPI = 100


def draw(folder: Path, clients: Sequence[LabelledClient], results: Sequence[JobResult]) -> list[Path]:
    """Write `precision-recall.png` and a `timeline-CLIENT.png` for each client; return the files.

    Args:
        folder: An existing folder.
        clients: The fleet.
        results: The results of all jobs.
    """
    seed = min(result.job.seed for result in results)
    by_method = {
        method: {client.client: client for client in result.clients[method]}
        for result in results
        if result.job.seed == seed and result.job.fold is None
        for method in result.clients
    }
    files = [_precision_recall(folder, clients, by_method)]
    return files + [_timeline(folder, c, by_method[FEDERATED][c.partition.name]) for c in clients]


def _precision_recall(
    folder: Path, clients: Sequence[LabelledClient], by_method: dict[str, dict[str, ClientResult]]
) -> Path:
    """Draw a panel for each client with anomalies and normal events, with a line for each autoencoder."""
    from sklearn.metrics import precision_recall_curve

    shown = [c for c in clients if by_method[FEDERATED][c.partition.name].metrics["auroc"] is not None]
    down = max(1, math.ceil(len(shown) / COLUMNS))
    figure = _figure(3 * COLUMNS, 2.6 * down + 0.5)
    panels = figure.subplots(down, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, client in zip(panels, shown, strict=False):
        name, labels = client.partition.name, client.anomalies
        for method in (*TRAINED, FEDERATED):
            precision, recall, _ = precision_recall_curve(labels, by_method[method][name].scores)
            width = 1.8 if method == FEDERATED else 1.0
            panel.plot(recall, precision, color=COLOURS[method], linewidth=width, label=METHOD_NAMES[method])
        panel.axhline(labels.mean(), color=FAULT, linewidth=0.8, linestyle=":", label="share of anomalies")
        panel.set_title(name, fontsize=9)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.02)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    if shown:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return _saved(figure, folder / "precision-recall.png")


def _timeline(folder: Path, client: LabelledClient, result: ClientResult) -> Path:
    """Draw the federated score of each test event, the live detector's threshold, and the labelled faults."""
    figure = _figure(11, 2.8)
    axes = figure.subplots()
    step, unit = 1.0, "test rows"
    if client.interval_s is not None:
        step, unit = client.interval_s / DAY_S, "days of test rows"
    times = np.arange(len(result.scores)) * step
    labels = client.anomalies
    for number, span in enumerate(runs(labels)):
        end = times[span.stop - 1] + step
        name = "labelled fault" if number == 0 else None
        axes.axvspan(times[span.start], end, color=FAULT, alpha=0.25, linewidth=0, label=name)
    axes.plot(times, _positive(result.scores), color=COLOURS[FEDERATED], linewidth=0.6, label="score")
    axes.plot(times, result.thresholds, color="black", linewidth=1.0, label="threshold")
    axes.set_yscale("log")
    axes.set_xlim(times[0], times[-1])
    axes.set_xlabel(unit, fontsize=9)
    axes.set_title(client.partition.name, fontsize=9, loc="left")
    axes.legend(loc="upper right", fontsize=8, ncols=3)
    return _saved(figure, folder / f"timeline-{client.partition.name}.png")


def _positive(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace scores of 0 by the smallest positive one, for a logarithmic axis."""
    smallest = scores[scores > 0].min(initial=1.0)
    raised: NDArray[np.float32] = np.maximum(scores, smallest)
    return raised


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path
