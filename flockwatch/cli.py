"""The command line: reads flags, loads settings, starts one part, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import config
from common.config import ConfigError
from common.settings import Settings

WRONG_INPUT = 2
FAILED = 1
STOPPED_BY_USER = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 wrong settings or data."""
    # Before flwr is imported, here and in every process started from here.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    parser = _parser()
    given = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if given.verbose else logging.INFO,
        format="%(asctime)s level=%(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # One line for each HTTP request is not news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = config.load(given.config, [*_flags(given), *given.set])
        return int(given.run(settings))
    except KeyboardInterrupt:
        return STOPPED_BY_USER
    except Exception as error:
        if given.verbose:
            raise
        print(f"flockwatch: {error}", file=sys.stderr)
        return WRONG_INPUT if _is_wrong_input(error) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flockwatch", description="Federated anomaly detection for fleets of edge machines."
    )
    parser.add_argument("--version", action="version", version=f"flockwatch {version('flockwatch')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    server = _command(commands, "server", _server, "run the federation's server until it has converged")
    _flag(server, "--host", "server.host", "address to listen on")
    _flag(server, "--port", "server.port", "port to listen on")
    _flag(server, "--state", "server.state", "folder for versions and history", path=True)

    client = _command(commands, "client", _client, "take part in a federation with this machine's data")
    _flag(client, "--data", "client.data", "CSV or Parquet file with this client's rows", path=True)
    _flag(client, "--name", "client.name", "the client's name, unique in the fleet")
    _flag(client, "--server", "client.server", "the server, as host:port")
    _flag(client, "--state", "client.state", "folder for what the client keeps", path=True)

    local = _command(
        commands, "local", _local, "run a whole federation on this machine, one process a client"
    )
    _flag(local, "--data", "local.data", "folder with one file a client, or one file to divide", path=True)
    _flag(local, "--clients", "local.clients", "among how many clients to divide one file")
    _flag(local, "--partition", "local.partition", "how: iid, contiguous, column, dirichlet")
    _flag(local, "--column", "local.column", "the column that names each row's client")
    _flag(local, "--runs", "local.runs", "folder for the run's folder", path=True)
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting"
    )
    parser.add_argument("--verbose", action="store_true", help="log more, and show where errors come from")
    return parser


def _flag(parser: argparse.ArgumentParser, flag: str, key: str, help_text: str, path: bool = False) -> None:
    """A flag that overrides one setting; names and paths are taken as they are, not as YAML."""
    kind = (lambda text: json.dumps(text)) if path or key.endswith("name") else str
    parser.add_argument(flag, dest=key, type=kind, metavar=flag[2:].upper(), help=f"{help_text} [{key}]")


def _flags(given: argparse.Namespace) -> list[str]:
    return [f"{key}={text}" for key, text in vars(given).items() if "." in key and text is not None]


def _is_wrong_input(error: Exception) -> bool:
    from client.identity import IdentityError
    from client.partition import PartitionError
    from client.tables import DataError
    from common.schema import SchemaError

    return isinstance(error, ConfigError | DataError | PartitionError | SchemaError | IdentityError)


def _server(settings: Settings) -> int:
    from server.launch import serve

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(serve(settings, stop))
    return 0


def _client(settings: Settings) -> int:
    from client.launch import serve
    from client.link import Link

    def on_ready(link: Link) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: link.stop())

    serve(settings, on_ready)
    return 0


def _local(settings: Settings) -> int:
    from flockwatch.local import run

    # Ended by a signal or by an error, the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)
