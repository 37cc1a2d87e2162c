"""The last actions of the processes of a scenario, for the report of a test that failed."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from pathlib import Path

from server.federation import status_file
from server.storage.database import DatabaseError
from server.storage.history import History

LINES, COLUMNS, ROUNDS = 15, 300, 3
"""Lines of a log, characters of a line, and rounds that are shown."""


def sections(folder: Path) -> list[tuple[str, str]]:
    """Return sections of a test report, each with its title.

    They are the end of each log, the last rounds, and what each client did.

    Args:
        folder: The folder of the scenario.
    """
    logs = ((str(log.relative_to(folder)), _end(log)) for log in sorted(folder.rglob("*.log")))
    states = sorted({path.parent for path in folder.rglob("fleet.json")})
    rounds = (("rounds", _rounds(state)) for state in states)
    clients = (("clients", _clients(state)) for state in states)
    return [(title, text) for title, text in (*logs, *rounds, *clients) if text]


def _end(log: Path) -> str:
    with log.open(errors="replace") as lines:
        return "\n".join(line.rstrip()[:COLUMNS] for line in deque(lines, LINES))


def _rounds(state: Path) -> str:
    try:
        with closing(History(state / "history.sqlite")) as history:
            return "\n".join(str(row)[:COLUMNS] for row in history.rounds()[-ROUNDS:])
    except DatabaseError as error:
        return str(error)


def _clients(state: Path) -> str:
    shown = status_file.read(state / "fleet.json") or {}
    names = ("state", "why", "behind", "admitted", "dropped", "refused")
    return "\n".join(
        f"{client}: " + ", ".join(f"{name} {known[name]}" for name in names if name in known)
        for client, known in shown.get("clients", {}).items()
    )
