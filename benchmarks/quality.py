"""`make bench-quality`: how well fleets detect on real labelled data, against everything that must be beaten.

One protocol and one set of defaults for all data sets (`docs/quality.md`). What is set for a data set is only
what its rows do not say themselves: how far apart they are, and whether they follow each other in time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.results import publish
from common.settings import Settings
from flockwatch.quality import plots
from flockwatch.quality.evaluation import evaluated, labelled
from flockwatch.quality.outcome import line
from flockwatch.quality.table import NAMES, caption, tables

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIVE_MINUTES = {"threshold": {"interval_s": 300.0}}
SETS: dict[str, dict[str, dict[str, Any]]] = {
    "asd": {**FIVE_MINUTES, "evaluate": {"new_client_rows": 300}},
    "nbaiot_noniid": {"model": {"window": 1}},  # rows drawn from many devices: none follows from the last
    "nbaiot_noniid_as_a_stream": {"evaluate": {"data": "nbaiot_noniid"}},  # its files' order taken for time
    "nab": {},
    "jump_d2": {**FIVE_MINUTES, "evaluate": {"seeds": 1}},  # labels do not follow values: for scale only
}
PICTURES = Path("runs") / "bench-quality"
"""Gets a folder for each data set."""


def main() -> None:
    """Evaluate the data sets that are there, or those that are named, and print the tables."""
    named = sys.argv[1:] or list(SETS)
    if wrong := [name for name in named if name not in SETS]:
        sys.exit(f"no data set {', '.join(wrong)}; expected {', '.join(SETS)}")
    folders = {name: DATA / SETS[name].get("evaluate", {}).get("data", name) for name in named}
    there = [name for name in named if folders[name].is_dir()]
    if not there:
        sys.exit(f"no real data: {DATA} has none of {', '.join(named)}; FLOCKWATCH_DATA can name its folder")
    console = Console(width=140)
    rows, figures = [], {}
    for name in there:
        settings = Settings().with_values(**SETS[name])
        settings = settings.with_values(evaluate={"data": folders[name]})
        clients = labelled(settings)
        found, finished = evaluated(clients, settings, console)
        folder = PICTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw(folder, clients, finished)
        console.print(f"{name}:", *tables(found), caption(found), f"Pictures: {folder}", sep="\n")
        figures[name] = line(found)
        for row, shown in found["rows"].items():
            cells = (shown[figure]["mean"] for figure in ("auroc", "average_precision", "vus_pr"))
            rows.append([name, NAMES[row], *("-" if c is None else f"{c:.3f}" for c in cells)])
    publish("quality", "Detection quality", ["", "", "AUROC", "AP", "VUS-PR"], rows, **figures)


if __name__ == "__main__":
    main()
