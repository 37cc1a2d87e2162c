"""Publish the results of a benchmark: a table, and one JSON line that is printed and written to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"


def publish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    /,
    listed: Sequence[Mapping[str, Any]] | None = None,
    keep: bool = True,
    **figures: Any,
) -> None:
    """Print the table and the figures as one JSON line, and write that line to `results/NAME.json`.

    Args:
        name: Name of the benchmark.
        title: Printed above the table.
        columns: Headings of the table.
        rows: Cells of the table.
        listed: Writes a JSON list of these objects, in place of `figures`.
        keep: Whether the line is also written to the file.
        **figures: The members of the JSON object.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=110)
    console.print(title, table, sep="\n")
    line = json.dumps(figures if listed is None else listed)
    if keep:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(line + "\n")
    print(line)
