"""The Flower ServerApp: reads the settings and runs the strategy.

Its run configuration has two keys: `config`, a settings file on the server's machine (empty for the
defaults), and `state`, the folder for versions and history (empty for `server.state` of the settings).
"""

from __future__ import annotations

import logging
from contextlib import closing
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import config
from common.display import log_to
from common.formats.files import private_folder, turn_over
from common.processes.packages import check_packages
from server.access.roster import Roster
from server.federation.strategy import FlockStrategy
from server.storage.history import History
from server.storage.lease import Lease
from server.storage.registry import Registry
from server.versions import aggregation

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation to its end, starting from the newest version in the state folder."""
    check_packages("server")
    config_file, state = str(context.run_config["config"]), str(context.run_config["state"])
    settings = config.load(Path(config_file) if config_file else None)
    folder = Path(state) if state else settings.server.state
    private_folder(folder)
    max_bytes = settings.logs.max_mb << 20
    turn_over(folder / "run.log", max_bytes, settings.logs.max_days)
    log_to(
        [RotatingFileHandler(folder / "run.log", maxBytes=max_bytes, backupCount=1), logging.StreamHandler()],
        logging.INFO,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    where = settings.server.database or folder / "history.sqlite"
    history = History(where, settings.logs.history_days)
    with Lease(folder) as lease, closing(history):
        strategy = FlockStrategy(
            inner=aggregation.make_strategy(settings),
            settings=settings,
            registry=Registry(folder / "versions", settings.server.keep_versions),
            history=history,
            status=folder / "fleet.json",
            roster=Roster(folder) if settings.server.tls_certificate is not None else None,
        )
        strategy.start(grid)
        lease.finish(strategy.reason)
