"""An outcome as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

NAMES = {
    "random": "random scores",
    "always": "always an alarm",
    "distance": "distance from the mean",
    "pca": "PCA",
    "isolation_forest": "isolation forest",
    "one_class_svm": "one-class SVM",
    "local_only": "local-only, own scaler",
    "local_fleet_scaler": "local-only, fleet scaler",
    "pooled": "pooled: all data in one place",
    "federated": "federated",
}

Figures = Mapping[str, Mapping[str, float | None]]


def tables(found: Mapping[str, Any]) -> list[Table]:
    """A row for each way, and if they were measured, the same for new clients."""
    shown = [_table("Mean over the clients", found["rows"])]
    if (new := found.get("new_clients")) is not None:
        shown.append(_table(f"New clients, {new['training_rows_of_each']} rows of their own", new["rows"]))
    return shown


def caption(found: Mapping[str, Any]) -> str:
    """What was measured, and what the columns are."""
    seeds = len(found["seeds"])
    rounds = ", ".join(map(str, found["rounds"]))
    interval = ", ".join(f"{s:g}" for s in found["interval_s"])
    return "\n".join(
        [
            f"{found['clients']} clients, {found['training_rows']} training rows, {found['test_rows']} test "
            f"rows, {found['labelled_rows']} of them anomalies; {seeds} seeds, +- their standard deviation;",
            f"{rounds} rounds; an event each {interval} s; {found['wall_s']:.0f} s. No point adjustment.",
            f"F1, alerts and recall: at the live detector's own threshold, budget {found['budget']}; "
            "best F1: at the best there is.",
            "False a day: false alerts a day, mean of the clients (the median client, the worst).",
            _margin("AP", found["margin"].get("average_precision")),
            _margin("AUROC", found["margin"].get("auroc")),
        ]
    )


def _margin(name: str, margin: Mapping[str, Any] | None) -> str:
    if margin is None:
        return f"{name}: no client has anomalies and normal events, so nothing is ranked."
    spread = f" +- {margin['spread']:.3f}" if margin["spread"] is not None else ""
    return f"{name}: federated {margin['mean']:+.3f}{spread} against the best rival, {NAMES[margin['over']]}."


def _table(title: str, rows: Mapping[str, Figures]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in ("AUROC", "AP", "VUS-PR", "best F1", "F1", "false a day", "events", "delay"):
        table.add_column(column, justify="right", no_wrap=True)
    for row, figures in rows.items():
        table.add_row(
            NAMES[row],
            _spread(figures["auroc"]),
            _spread(figures["average_precision"]),
            *(_number(figures[name]["mean"]) for name in ("vus_pr", "best_f1", "f1")),
            _false(figures["false_alerts_per_day"]),
            _number(figures["event_recall"]["mean"], 2),
            _delay(figures["delay_s"]["mean"]),
            style="bold" if row == "federated" else None,
        )
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(value: Mapping[str, float | None]) -> str:
    spread = value["spread"]
    return _number(value["mean"]) + ("" if spread is None else f" +-{spread:.3f}")


def _false(value: Mapping[str, float | None]) -> str:
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.1f} ({_number(value['median'], 1)}, {_number(value['worst'], 1)})"


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
