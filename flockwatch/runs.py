"""The output of `flockwatch local` and `evaluate`: a folder for the results of a run, and the terminal."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from rich.console import Console

PLAIN_WIDTH = 110
"""Width of output that does not go to a terminal, in characters."""


def new_folder(runs: Path) -> Path:
    """Return a path in `runs`, named after the time, that does not exist yet; it is not created."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}-{attempt}" for attempt in itertools.count(2)))
    return next(runs / name for name in names if not (runs / name).exists())


def terminal() -> Console:
    """Return the terminal, or a console of plain text if standard output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
