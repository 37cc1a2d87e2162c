"""`make bench-quality`: detection quality on real labelled data, compared with other methods.

All data sets use one protocol and the default settings (`docs/quality.md`). The only settings per data set
are those that cannot be read from its rows: the time between rows, and whether they are ordered in time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import publish
from common.settings import Settings
from flockwatch.quality import plots
from flockwatch.quality.evaluation import evaluate, read_clients
from flockwatch.quality.report import key_values
from flockwatch.quality.table import METHOD_NAMES, caption, tables
from flockwatch.runs import terminal

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIVE_MINUTES = {"threshold": {"interval_s": 300.0}}
SETS: dict[str, dict[str, dict[str, Any]]] = {
    "asd": {**FIVE_MINUTES, "evaluate": {"new_client_rows": 300}},
    "nbaiot_noniid": {"model": {"window": 1}},  # rows of many devices, not ordered in time
    "nbaiot_noniid_as_a_stream": {"evaluate": {"data": "nbaiot_noniid"}},  # row order treated as time
    "nab": {},
    "skab": {},  # short experiments at different operating points
    "cmapss": {},
    "annthyroid": {"model": {"window": 1}},  # rows have no order
    "jump_d2": {**FIVE_MINUTES, "evaluate": {"seeds": 1}},  # a test of scale: its labels ignore its values
}
PICTURES = Path("runs") / "bench-quality"
"""Contains a folder of plots per data set."""


def main() -> None:
    """Evaluate the data sets named on the command line, or all that exist, and publish the tables."""
    names = sys.argv[1:] or list(SETS)
    if unknown := [name for name in names if name not in SETS]:
        sys.exit(f"unknown data set {', '.join(unknown)}; expected {', '.join(SETS)}")
    folders = {name: DATA / SETS[name].get("evaluate", {}).get("data", name) for name in names}
    existing = [name for name in names if folders[name].is_dir()]
    if not existing:
        sys.exit(f"no data: {DATA} has none of {', '.join(names)}; set FLOCKWATCH_DATA to their folder")
    console = terminal()
    rows, figures = [], {}
    for name in existing:
        settings = Settings().with_values(**SETS[name])
        settings = settings.with_values(evaluate={"data": folders[name]})
        clients, left_out = read_clients(settings)
        report, results = evaluate(clients, left_out, settings, console)
        folder = PICTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw(folder, clients, results)
        console.print(f"{name}:", *tables(report), caption(report), f"Plots: {folder}", sep="\n")
        figures[name] = key_values(report)
        for method, metrics in report["rows"].items():
            cells = (metrics[metric]["mean"] for metric in ("auroc", "average_precision", "vus_pr"))
            rows.append([name, METHOD_NAMES[method], *("-" if c is None else f"{c:.3f}" for c in cells)])
    publish("quality", "Detection quality", ["", "", "AUROC", "AP", "VUS-PR"], rows, **figures)


if __name__ == "__main__":
    main()
