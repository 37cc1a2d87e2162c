"""The report of an evaluation as JSON values: metrics averaged over clients, then over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.detectors.choice import IN_PLACE
from common.settings import Settings
from flockwatch.quality.jobs import (
    ALONE,
    FEDERATED,
    METHODS,
    NEW_CLIENT_METHODS,
    OF_VERSION,
    TRAINED,
    ClientResult,
    JobResult,
    LabelledClient,
)
from flockwatch.quality.metrics import LOWER_IS_BETTER, METRICS, mean, spread

Runs = Mapping[int, Sequence[ClientResult]]
"""The results of one method: for each seed those of its clients."""
SHORT_NAMES = {
    FEDERATED: "federated", "local_only": "local", "local_fleet_scaler": "local_fleet_scaler",
    "pooled": "pooled", ALONE: "autoencoder", **{name: name for name in IN_PLACE},
}  # fmt: skip
"""Names of the methods in `key_values`."""
ALARM_FIGURES = (
    "false_notices_per_day", "alarm_hours_per_day", "faults_found", "faults_in_open_incident",
)  # fmt: skip
"""Metrics of the federation's incidents in `key_values`."""


def report(
    clients: Sequence[LabelledClient],
    left_out: Mapping[str, str],
    results: Sequence[JobResult],
    settings: Settings,
    wall_s: float,
) -> dict[str, Any]:
    """Return the report of an evaluation.

    `rows` has each method's metrics, `by_client` each client's by method, `margin` the lead of the federation
    over the best other method, and `new_clients` the same for clients that took part in no federation.

    Args:
        clients: The fleet.
        left_out: Why other clients are left out.
        results: The results of all jobs.
        settings: The settings of the evaluation.
        wall_s: Duration of the evaluation.
    """
    runs = {method: _runs(results, method, new=False) for method in METHODS}
    values: dict[str, Any] = {
        "clients": len(clients),
        "left_out": dict(left_out),
        "training_rows": sum(len(c.partition.rows) for c in clients),
        "test_rows": sum(len(c.partition.test_rows) for c in clients),
        "labelled_rows": sum(int(c.anomalies.sum()) for c in clients),
        "seeds": sorted(runs[FEDERATED]),
        "rounds": [r.rounds for r in results if r.job.method == FEDERATED and r.job.fold is None],
        "budget": settings.threshold.budget,
        "interval_s": sorted({c.interval_s for c in clients if c.interval_s is not None}),
        "timed": all(c.interval_s is not None for c in clients),
        "wall_s": round(wall_s, 1),
        "rows": {method: summarise(of_method) for method, of_method in runs.items()},
        "margin": margins(runs, TRAINED),
        "by_client": {
            c.partition.name: {
                method: _client_means(of_method, c.partition.name) for method, of_method in runs.items()
            }
            for c in clients
        },
        "settings": settings.dump(),
    }
    if settings.evaluate.new_client_rows is not None:
        new = {method: _runs(results, method, new=True) for method in NEW_CLIENT_METHODS}
        values["new_clients"] = {
            "training_rows_of_each": settings.evaluate.new_client_rows,
            "folds": settings.evaluate.folds,
            "rows": {method: summarise(of_method) for method, of_method in new.items()},
            "margin": margins(new, [method for method in NEW_CLIENT_METHODS if method not in OF_VERSION]),
        }
    return values


def key_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a report that benchmarks record: `federated_ap`, `local_auroc_spread`, ..."""
    keys = _key_values(values)
    for metric in ALARM_FIGURES:
        summary = values["rows"][FEDERATED][metric]
        keys[metric] = {name: _rounded(value) for name, value in summary.items()}
    if (new := values.get("new_clients")) is not None:
        keys["new_clients"] = {"training_rows_of_each": new["training_rows_of_each"], **_key_values(new)}
    return keys


def _key_values(values: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for metric, short in (("average_precision", "ap"), ("auroc", "auroc")):
        for method, name in SHORT_NAMES.items():
            if method in values["rows"]:
                summary = values["rows"][method][metric]
                keys[f"{name}_{short}"] = _rounded(summary["mean"])
                keys[f"{name}_{short}_spread"] = _rounded(summary["spread"])
        if (margin := values["margin"].get(metric)) is not None:
            keys[f"margin_{short}"] = _rounded(margin["mean"])
            keys[f"margin_{short}_spread"] = _rounded(margin["spread"])
            keys[f"margin_{short}_over"] = SHORT_NAMES[margin["over"]]
    return keys


def summarise(runs: Runs) -> dict[str, dict[str, float | None]]:
    """Return four values of each metric of a method.

    `mean` is over clients, then over seeds, and `spread` the standard deviation over seeds. `median` and
    `worst` are of the clients' means over seeds.
    """
    summary = {}
    for metric in METRICS:
        by_seed = [mean([r.metrics[metric] for r in results]) for results in runs.values()]
        names = [r.client for r in next(iter(runs.values()), [])]
        by_client = [_client_means(runs, name)[metric] for name in names]
        worst = max if metric in LOWER_IS_BETTER else min
        summary[metric] = {
            "mean": mean(by_seed),
            "spread": spread(by_seed),
            "median": _reduce(lambda values: float(np.median(values)), by_client),
            "worst": _reduce(worst, by_client),
        }
    return summary


def margins(runs: Mapping[str, Runs], others: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the lead of the federation over the best of other methods, for each ranking metric.

    The difference is taken for each seed; `mean` and `spread` are over seeds.
    """
    margins_ = {}
    for metric in ("average_precision", "auroc", "vus_pr"):
        by_seed = {
            method: {
                seed: mean([r.metrics[metric] for r in results]) for seed, results in runs[method].items()
            }
            for method in (FEDERATED, *others)
        }
        means = {
            method: value for method in others if (value := mean(list(by_seed[method].values()))) is not None
        }
        if not means:
            continue
        best = max(means, key=lambda method: means[method])
        differences = [
            federated - other
            for seed, federated in by_seed[FEDERATED].items()
            if federated is not None and (other := by_seed[best].get(seed)) is not None
        ]
        margins_[metric] = {"over": best, "mean": mean(differences), "spread": spread(differences)}
    return margins_


def _runs(results: Sequence[JobResult], method: str, *, new: bool) -> dict[int, list[ClientResult]]:
    """Return a method's results by seed, of new clients or of those in the federation."""
    runs: dict[int, list[ClientResult]] = {}
    for result in results:
        if (result.job.fold is not None) == new and method in result.clients:
            runs.setdefault(result.job.seed, []).extend(result.clients[method])
    return runs


def _client_means(runs: Runs, name: str) -> dict[str, float | None]:
    """Return one client's metrics, each averaged over the seeds."""
    of_client = [r for results in runs.values() for r in results if r.client == name]
    return {metric: mean([r.metrics[metric] for r in of_client]) for metric in METRICS}


def _reduce(reduction: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return reduction(present) if present else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
