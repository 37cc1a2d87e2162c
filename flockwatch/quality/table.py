"""The report of an evaluation as tables and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

METHOD_NAMES = {
    "random": "random scores",
    "always": "an alert for every event",
    "distance": "distance from the mean",
    "pca": "PCA",
    "isolation_forest": "isolation forest",
    "one_class_svm": "one-class SVM",
    "local_only": "local-only, own scaler",
    "local_fleet_scaler": "local-only, fleet scaler",
    "pooled": "pooled: all data in one place",
    "federated": "federated",
}

Metrics = Mapping[str, Mapping[str, float | None]]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return a table with a row for each method, and another one for new clients if they were measured."""
    tables_ = [_table("Mean over the clients", report["rows"])]
    if (new := report.get("new_clients")) is not None:
        title = f"New clients with {new['training_rows_of_each']} training rows each"
        tables_.append(_table(title, new["rows"]))
    return tables_


def caption(report: Mapping[str, Any]) -> str:
    """Return a text that says what was measured, explains the columns, and compares the federation."""
    seeds = len(report["seeds"])
    rounds = ", ".join(map(str, report["rounds"]))
    interval = ", ".join(f"{s:g}" for s in report["interval_s"])
    return "\n".join(
        [
            f"{report['clients']} clients, {report['training_rows']} training rows, "
            f"{report['test_rows']} test rows, {report['labelled_rows']} of them anomalies;",
            f"{seeds} seeds (+-: their standard deviation); {rounds} rounds; one event every {interval} s; "
            f"{report['wall_s']:.0f} s. No point adjustment.",
            "F1, false alerts, faults found and delay: at the live detector's threshold, with a budget of "
            f"{report['budget']}.",
            "Best F1: at the threshold that maximises it, which only labels give.",
            "False per day: false alerts per day, mean of the clients (median client, worst client).",
            _margin("AP", report["margin"].get("average_precision")),
            _margin("AUROC", report["margin"].get("auroc")),
        ]
    )


def _margin(name: str, margin: Mapping[str, Any] | None) -> str:
    if margin is None:
        return f"{name}: no value, because no client has both anomalies and normal events."
    spread = f" +- {margin['spread']:.3f}" if margin["spread"] is not None else ""
    best = METHOD_NAMES[margin["over"]]
    return f"{name}: federated {margin['mean']:+.3f}{spread} compared with the best other method, {best}."


def _table(title: str, methods: Mapping[str, Metrics]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in ("AUROC", "AP", "VUS-PR", "best F1", "F1", "false per day", "faults found", "delay"):
        table.add_column(column, justify="right", no_wrap=True)
    for method, metrics in methods.items():
        table.add_row(
            METHOD_NAMES[method],
            _spread(metrics["auroc"]),
            _spread(metrics["average_precision"]),
            *(_number(metrics[name]["mean"]) for name in ("vus_pr", "best_f1", "f1")),
            _false_alerts(metrics["false_alerts_per_day"]),
            _number(metrics["event_recall"]["mean"], 2),
            _delay(metrics["delay_s"]["mean"]),
            style="bold" if method == "federated" else None,
        )
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(value: Mapping[str, float | None]) -> str:
    spread = value["spread"]
    return _number(value["mean"]) + ("" if spread is None else f" +-{spread:.3f}")


def _false_alerts(value: Mapping[str, float | None]) -> str:
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.1f} ({_number(value['median'], 1)}, {_number(value['worst'], 1)})"


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
