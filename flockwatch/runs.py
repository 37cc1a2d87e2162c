"""Where a command that runs on this machine writes its results, and how wide it prints."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from rich.console import Console

PLAIN_WIDTH = 110
"""Columns of the output where it is not a terminal."""


def new_folder(runs: Path) -> Path:
    """A folder for this run that does not exist yet, named by the time. It is made by what is put into it."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}-{attempt}" for attempt in itertools.count(2)))
    return next(runs / name for name in names if not (runs / name).exists())


def terminal() -> Console:
    """The terminal, or plain text where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
