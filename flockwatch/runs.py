"""The output of commands that print tables: when a run ends, a folder for results, the terminal."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from common.display import printable
from common.settings import Settings

MAX_ROUNDS = 200
"""Versions after which a run ends, where `federation.max_rounds` is not set."""

PLAIN_WIDTH = 10_000
"""Width of output that does not go to a terminal, in characters: more than any line, so that none is cut."""


def new_folder(runs: Path) -> Path:
    """Return a path in `runs`, named after the time, that does not exist yet; it is not created."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}-{attempt}" for attempt in itertools.count(2)))
    return next(runs / name for name in names if not (runs / name).exists())


def finite(settings: Settings) -> Settings:
    """Return settings with which the federation ends by itself, unlike the one of a server."""
    max_rounds = settings.federation.max_rounds or MAX_ROUNDS
    return settings.with_values(federation={"max_rounds": max_rounds})


def shown(text: str, keep_lines: bool = False) -> str:
    r"""Return text of others, such as a name, as a console prints it: without markup and control characters.

    >>> shown("[red]a\x1b")
    '\\[red]a\\x1b'
    """
    return escape(printable(text, keep_lines))


def terminal() -> Console:
    """Return the terminal, or a console of plain text if standard output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
