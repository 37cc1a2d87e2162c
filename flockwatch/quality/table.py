"""The report of an evaluation as tables and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

METHOD_NAMES = {
    "random": "random scores",
    "always": "an alert for every event",
    "distance": "distance from the mean",
    "pca": "PCA",
    "own_pca": "PCA, scored as in flockwatch",
    "own_gaussian": "Gaussian, scored as in flockwatch",
    "own_isolation_forest": "isolation forest, scored as in flockwatch",
    "own_kmeans": "k-means, scored as in flockwatch",
    "own_one_class_svm": "one-class SVM, scored as in flockwatch",
    "isolation_forest": "isolation forest",
    "one_class_svm": "one-class SVM",
    "local_only": "local-only, own scaler",
    "local_fleet_scaler": "local-only, fleet scaler",
    "pooled": "pooled: all data in one place",
    "federated": "federated",
    "federated_autoencoder": "federated, the autoencoder alone",
    "fleet_pca": "federated PCA",
    "fleet_gaussian": "federated Gaussian",
    "fleet_forest": "federated isolation forest",
}

Metrics = Mapping[str, Mapping[str, float | None]]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return tables with a row for each method: its ranking of events, and its incidents.

    New clients, if they were measured, have two more.
    """
    timed = report["timed"]
    groups = {"Mean over the clients": report["rows"]}
    if (new := report.get("new_clients")) is not None:
        groups[f"New clients with {new['training_rows_of_each']} training rows each"] = new["rows"]
    return [
        table
        for title, rows in groups.items()
        for table in (
            _ranking(f"{title}: ranking of events", rows),
            _incidents(f"{title}: incidents", rows, timed),
        )
    ]


def caption(report: Mapping[str, Any]) -> str:
    """Return a text with the subject of the measurement, the columns, and a comparison of the federation."""
    seeds = len(report["seeds"])
    rounds = ", ".join(map(str, report["rounds"]))
    interval = ", ".join(f"{s:g}" for s in report["interval_s"])
    every = f"one event every {interval} s" if report["timed"] else "the time between events is not known"
    return "\n".join(
        [
            f"{report['clients']} clients, {report['training_rows']} training rows, "
            f"{report['test_rows']} test rows, {report['labelled_rows']} of them anomalies;",
            f"{seeds} seeds (+-: their standard deviation); {rounds} rounds; {every}; "
            f"{report['wall_s']:.0f} s. No point adjustment.",
            *(f"Left out: {reason}" for reason in report["left_out"].values()),
            f"Incidents: those of the live detector, with a budget of {report['budget']}.",
            "Best F1: at the threshold that maximises it, which only labels give.",
            "False notices: incidents that begin outside faults. In alarm: normal events while one is open.",
            "Both are means of the clients (median client, worst client).",
            "Faults found: an incident of their own begins in them. Inside an open incident: none begins in",
            "them, but one that began before is open. Delay: from the fault's start to its own incident.",
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


def _ranking(title: str, methods: Mapping[str, Metrics]) -> Table:
    """Return the table of the metrics that need no threshold."""
    table = _table(title, ("AUROC", "AP", "VUS-PR", "best F1"))
    for method, metrics in methods.items():
        table.add_row(
            METHOD_NAMES[method],
            _spread(metrics["auroc"]),
            _spread(metrics["average_precision"]),
            *(_number(metrics[name]["mean"]) for name in ("vus_pr", "best_f1")),
            style=_style(method),
        )
    return table


def _incidents(title: str, methods: Mapping[str, Metrics], timed: bool) -> Table:
    """Return the table of the metrics at the live threshold.

    Args:
        title: Its title.
        methods: The metrics of each method.
        timed: Whether the time between events is known, which figures per day need.
    """
    unit = "per day" if timed else "of 1,000 events"
    false = f"false notices\n{unit}"
    alarm = f"hours in alarm\n{unit}" if timed else f"in alarm\n{unit}"
    table = _table(title, ("F1", false, alarm, "faults\nfound", "inside an\nopen incident", "delay"))
    for method, metrics in methods.items():
        table.add_row(
            METHOD_NAMES[method],
            _number(metrics["f1"]["mean"]),
            _clients(metrics["false_notices_per_day" if timed else "false_notices_per_1000"]),
            _clients(metrics["alarm_hours_per_day" if timed else "alarm_events_per_1000"]),
            *(_percent(metrics[name]["mean"]) for name in ("faults_found", "faults_in_open_incident")),
            _delay(metrics["delay_s"]["mean"]),
            style=_style(method),
        )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _style(method: str) -> str | None:
    return "bold" if method == "federated" else None


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _spread(value: Mapping[str, float | None]) -> str:
    spread = value["spread"]
    return _number(value["mean"]) + ("" if spread is None else f" +-{spread:.3f}")


def _clients(value: Mapping[str, float | None]) -> str:
    """Return the mean of the clients, with the median and the worst client."""
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.1f} ({_number(value['median'], 1)}, {_number(value['worst'], 1)})"


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
