"""How every benchmark ends: a table for people, one JSON line for programs, and the same line kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

KEPT = Path(__file__).parent / "results"


def publish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    listed: Sequence[Mapping[str, Any]] | None = None,
    **figures: Any,
) -> None:
    """Print the table and the figures as one JSON line, and keep that line in `results/NAME.json`.

    The line is a list where figures are `listed`, else an object.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=110)
    console.print(title, table, sep="\n")
    line = json.dumps(figures if listed is None else listed)
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{name}.json").write_text(line + "\n")
    print(line)
