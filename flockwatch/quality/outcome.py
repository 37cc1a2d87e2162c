"""All figures of an evaluation as JSON values: means over clients, then over seeds, with their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.settings import Settings
from flockwatch.quality.metrics import FIGURES, mean, spread
from flockwatch.quality.protocol import FEDERATED, NEW_ROWS, ROWS, TRAINED, Done, Judged, Labelled

Runs = Mapping[int, Sequence[Judged]]
"""Of one row: each seed's clients."""
SHORT = {
    FEDERATED: "federated", "local_only": "local", "local_fleet_scaler": "local_fleet_scaler",
    "pooled": "pooled",
}  # fmt: skip
"""Names of the rows in the line for programs."""


def outcome(
    clients: Sequence[Labelled], finished: Sequence[Done], settings: Settings, wall_s: float
) -> dict[str, Any]:
    """Everything about an evaluation.

    `rows` has each row's figures, `by_client` each client's by row, `margin` what the federation is ahead
    of the best of its rivals, and `new_clients` the same for clients that no federation has met.
    """
    runs = {row: _runs(finished, row, new=False) for row in ROWS}
    budget = settings.threshold.budget
    found: dict[str, Any] = {
        "clients": len(clients),
        "training_rows": sum(len(c.partition.rows) for c in clients),
        "test_rows": sum(len(c.partition.test_rows) for c in clients),
        "labelled_rows": sum(int(c.anomalies.sum()) for c in clients),
        "seeds": sorted(runs[FEDERATED]),
        "rounds": [d.rounds for d in finished if d.job.row == FEDERATED and d.job.fold is None],
        "budget": budget,
        "interval_s": sorted({c.interval_s for c in clients}),
        "wall_s": round(wall_s, 1),
        "rows": {row: figures_of(of_row) for row, of_row in runs.items()},
        "margin": margins(runs, TRAINED),
        "by_client": {
            c.partition.name: {row: _of_client(of_row, c.partition.name) for row, of_row in runs.items()}
            for c in clients
        },
        "settings": settings.dump(),
    }
    if settings.evaluate.new_client_rows is not None:
        new = {row: _runs(finished, row, new=True) for row in NEW_ROWS}
        found["new_clients"] = {
            "training_rows_of_each": settings.evaluate.new_client_rows,
            "folds": settings.evaluate.folds,
            "rows": {row: figures_of(of_row) for row, of_row in new.items()},
            "margin": margins(new, [row for row in NEW_ROWS if row != FEDERATED]),
        }
    return found


def line(found: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome as the few values that claims are checked by: `federated_ap`, `local_auroc_spread`, ..."""
    values = _short(found)
    false = found["rows"][FEDERATED]["false_alerts_per_day"]
    values["false_alerts_per_day"] = {name: _rounded(value) for name, value in false.items()}
    if (new := found.get("new_clients")) is not None:
        values["new_clients"] = {"training_rows_of_each": new["training_rows_of_each"], **_short(new)}
    return values


def _short(found: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for figure, short in (("average_precision", "ap"), ("auroc", "auroc")):
        for row, name in SHORT.items():
            if row in found["rows"]:
                value = found["rows"][row][figure]
                values[f"{name}_{short}"] = _rounded(value["mean"])
                values[f"{name}_{short}_spread"] = _rounded(value["spread"])
        if (margin := found["margin"].get(figure)) is not None:
            values[f"margin_{short}"] = _rounded(margin["mean"])
            values[f"margin_{short}_spread"] = _rounded(margin["spread"])
            values[f"margin_{short}_over"] = SHORT[margin["over"]]
    return values


def figures_of(runs: Runs) -> dict[str, dict[str, float | None]]:
    """A row's figures: the mean over its clients, then over its seeds, the seeds' spread, and the clients'.

    `median` and `worst` are of the clients, each one's mean over the seeds; worst is the largest of what
    should be small, and else the smallest.
    """
    found = {}
    for figure in FIGURES:
        by_seed = [mean([j.figures[figure] for j in judged]) for judged in runs.values()]
        names = [j.client for j in next(iter(runs.values()), [])]
        of_clients = [_of_client(runs, name)[figure] for name in names]
        worst = max if figure in ("false_alerts_per_day", "delay_s") else min
        found[figure] = {
            "mean": mean(by_seed),
            "spread": spread(by_seed),
            "median": _of(lambda values: float(np.median(values)), of_clients),
            "worst": _of(worst, of_clients),
        }
    return found


def margins(runs: Mapping[str, Runs], rivals: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By how much the federation is ahead of its best rival: seed by seed, then the mean and the spread."""
    found = {}
    for figure in ("average_precision", "auroc", "vus_pr"):
        of_seed = {
            row: {seed: mean([j.figures[figure] for j in judged]) for seed, judged in runs[row].items()}
            for row in (FEDERATED, *rivals)
        }
        means = {row: value for row in rivals if (value := mean(list(of_seed[row].values()))) is not None}
        if not means:
            continue
        over = max(means, key=lambda row: means[row])
        ahead = [
            ours - theirs
            for seed, ours in of_seed[FEDERATED].items()
            if ours is not None and (theirs := of_seed[over].get(seed)) is not None
        ]
        found[figure] = {"over": over, "mean": mean(ahead), "spread": spread(ahead)}
    return found


def _runs(finished: Sequence[Done], row: str, *, new: bool) -> dict[int, list[Judged]]:
    runs: dict[int, list[Judged]] = {}
    for result in finished:
        if (result.job.fold is not None) == new and row in result.judged:
            runs.setdefault(result.job.seed, []).extend(result.judged[row])
    return runs


def _of_client(runs: Runs, name: str) -> dict[str, float | None]:
    """One client's figures, each the mean over the seeds."""
    of_client = [j for judged in runs.values() for j in judged if j.client == name]
    return {figure: mean([j.figures[figure] for j in of_client]) for figure in FIGURES}


def _of(summary: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return summary(present) if present else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
