"""Names of clients, from the names of their data files."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Of data files."""


def client_name(path: Path) -> str:
    """A data file's name without its ending, which names the client."""
    return next((path.name.removesuffix(end) for end in SUFFIXES if path.name.endswith(end)), path.name)


def natural_key(name: str) -> list[tuple[str, int]]:
    """A key that sorts numbers inside names by size: `server-2` before `server-10`."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]
