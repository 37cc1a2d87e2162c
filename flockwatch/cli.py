"""The command line: checks and prepares the process, runs one command, and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the four packages."""
PACKAGES = ("client", "common", "flockwatch", "server")

FAILED = 1
WRONG_INPUT = 2
STOPPED_BY_USER = 130

ENVIRONMENT = {
    # Read by Flower when it is imported.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Read by NumPy when it is imported. Threads gain nothing on models of this size, and take the core that
    # scores events.
    "OPENBLAS_NUM_THREADS": "1",
}
"""Variables that are set, unless the user has, here and in every process started from here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong settings, data or installation, 130 interrupted.
    """
    # By its path: `import common` would run whatever has that name on the import path.
    packages = runpy.run_path(os.fspath(ROOT / "common" / "processes" / "packages.py"))
    packages["check_packages"](*PACKAGES)
    os.environ.update(packages["SAFE_PATH"])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from common import config
    from common.display import printable
    from common.errors import UserError
    from common.processes.children import raise_open_files
    from flockwatch.arguments import parser
    from flockwatch.flags import overrides

    options = parser().parse_args(arguments)
    _log(options.verbose)
    raise_open_files()
    try:
        settings = config.load(options.config, [*overrides(options), *options.set])
        return int(options.run(settings, options))
    except KeyboardInterrupt:
        return STOPPED_BY_USER
    except Exception as error:
        if options.verbose:
            raise
        print(f"flockwatch: {printable(str(error), keep_lines=True)}", file=sys.stderr)
        return WRONG_INPUT if isinstance(error, UserError) else FAILED


def _log(verbose: bool) -> None:
    from common.display import log_to

    log_to([logging.StreamHandler()], logging.DEBUG if verbose else logging.INFO)
    # They log each HTTP request, and each migration of Flower's database.
    for library in ("httpx", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
