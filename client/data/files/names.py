"""Names of clients, from the names of their data files."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Suffixes of data files."""


def client_name(path: Path) -> str:
    """Return the name of a data file without its suffix, which is the client's name by default."""
    return next((path.name.removesuffix(end) for end in SUFFIXES if path.name.endswith(end)), path.name)


def natural_key(name: str) -> list[tuple[str, int]]:
    """Return a sort key that orders numbers in names by value: `server-2` before `server-10`."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]
