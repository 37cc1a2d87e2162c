"""The place that processes import flockwatch from: one for all, never the working directory.

The names `client`, `common` and `server` are frequent ones. A file or folder of such a name in the directory
where a user starts flockwatch, or on PYTHONPATH, would otherwise run in place of the installed package.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment in which neither Python nor its child processes import from the working directory."""

FOREIGN_PACKAGE = 2
"""Exit code of a process that would import a package from another place."""


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python, without imports from the working directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def check_packages(*names: str) -> None:
    """Exit with one line on standard error unless the named packages are found beside this one.

    The packages are located, not imported.
    """
    root = Path(__file__).resolve().parents[2]
    for name in names:
        spec = find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if place != root / name / "__init__.py":
            print(
                f"flockwatch: Python finds the package '{name}' at {place or 'no place'}, expected "
                f"{root / name}; check PYTHONPATH, or the working directory after `python -m flockwatch`",
                file=sys.stderr,
            )
            sys.exit(FOREIGN_PACKAGE)
