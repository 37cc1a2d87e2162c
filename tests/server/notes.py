"""The notes of a history, as they stand in its database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def read_notes(file: Path) -> list[tuple[str, str]]:
    """Return kind and text of all notes, oldest first."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT kind, text FROM notes ORDER BY rowid").fetchall()
