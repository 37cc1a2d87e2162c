"""The command line: reads flags, loads settings, runs one command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import config
from common.errors import UserError
from common.settings import Settings
from flockwatch import commands

FAILED = 1
STOPPED_BY_USER = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 wrong settings or data."""
    # Before flwr is imported, here and in every process started from here.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    # Before NumPy is: its threads would gain nothing on models of this size, and take the live loop's core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    given = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if given.verbose else logging.INFO,
        format="%(asctime)s level=%(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # One line for each HTTP request is not news, nor is what Flower's database library loads.
    for library in ("httpx", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        settings = config.load(given.config, [*_flags(given), *given.set])
        return int(given.run(settings, given))
    except KeyboardInterrupt:
        return STOPPED_BY_USER
    except Exception as error:
        if given.verbose:
            raise
        print(f"flockwatch: {error}", file=sys.stderr)
        return commands.WRONG_INPUT if isinstance(error, UserError) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flockwatch", description="Federated anomaly detection for fleets of edge machines."
    )
    parser.add_argument("--version", action="version", version=f"flockwatch {version('flockwatch')}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    server = _command(parsers, commands.server, "run the federation's server until it has converged")
    _flag(server, "--host", "server.host", "address to listen on")
    _flag(server, "--port", "server.port", "port to listen on")
    _flag(server, "--state", "server.state", "folder for versions and history", path=True)
    _flag(server, "--certificate", "server.tls_certificate", "PEM that clients are shown", path=True)
    _flag(server, "--key", "server.tls_key", "its private key", path=True)
    _flag(server, "--status", "server.status", "HOST:PORT of the status page and /metrics", path=True)

    status = _command(parsers, commands.status, "print how a running federation and its clients are")
    _flag(status, "--address", "server.status", "where the server serves /status", path=True)

    client = _command(
        parsers, commands.client, "take part in a federation, and score this machine's own stream"
    )
    client.add_argument(
        "action", nargs="?", choices=["rollback"], help="rollback: work with an earlier version from now on"
    )
    client.add_argument(
        "--to", metavar="VERSION", default=None,
        help="of rollback: the version, or 'newest' to undo it; without it the one before",
    )  # fmt: skip
    trainer = _command(parsers, commands.trainer, "the training half of `client`, which starts it")
    for parser_ in (client, trainer):
        _flag(parser_, "--data", "client.data", "CSV or Parquet file with this client's rows", path=True)
        _flag(parser_, "--name", "client.name", "the client's name, unique in the fleet")
        _flag(parser_, "--server", "client.server", "the server, as host:port")
        _flag(parser_, "--state", "client.state", "folder for what the client keeps", path=True)
        _flag(parser_, "--ca", "client.tls_ca", "PEM of the CA of the server's certificate", path=True)
        _flag(parser_, "--key", "client.key", "this client's private key, enrolled at the server", path=True)

    detect = _command(parsers, commands.detect, "score a stream by one version; never train")
    detect.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="the version")
    _flag(detect, "--name", "client.name", "the client's name in alerts")
    _flag(detect, "--state", "client.state", "folder for what the detector keeps", path=True)
    for parser_ in (client, detect):
        _flag(parser_, "--source", "live.source", "where events come from", path=True)
        _flag(parser_, "--status", "live.status", "HOST:PORT of /metrics and /healthz", path=True)
        parser_.add_argument(
            "--sink", dest="live.sinks", action="append", metavar="ADDRESS",
            help="where alerts go; may be given several times [live.sinks]",
        )  # fmt: skip

    inspect = parsers.add_parser(
        "inspect", help="print what a version holds", description="print what a version holds"
    )
    inspect.set_defaults(run=commands.inspect, config=None, set=[], verbose=False)
    inspect.add_argument("manifest", type=Path, metavar="FILE")

    _keys_and_certificates(parsers)

    text = "generated machines send their telemetry to an MQTT broker, with a fault now and then"
    play = parsers.add_parser("play", help=text, description=text)
    play.set_defaults(run=commands.play, config=None, set=[], verbose=False)
    play.add_argument("broker", metavar="mqtt://HOST/TOPIC", help="machine NAME's events go to TOPIC/NAME")
    play.add_argument("--machines", type=_positive(int), default=3, metavar="N", help="how many")
    play.add_argument(
        "--rate", type=_positive(float), default=5.0, metavar="N", help="events a second of each"
    )
    play.add_argument(
        "--fault-every", type=_positive(float), default=60.0, metavar="SECONDS", help="to the next fault"
    )
    play.add_argument(
        "--first-fault", type=_positive(float), default=120.0, metavar="SECONDS", help="to the first one"
    )
    play.add_argument("--seed", type=int, default=42, metavar="N", help="of the machines and their faults")

    local = _command(parsers, commands.local, "run a whole federation on this machine, one process a client")
    _flag(local, "--data", "local.data", "folder with one file a client, or one file to divide", path=True)
    _flag(local, "--clients", "local.clients", "among how many clients to divide one file")
    _flag(local, "--partition", "local.partition", "how: iid, contiguous, column, dirichlet")
    _flag(local, "--column", "local.column", "the column that names each row's client")
    _flag(local, "--runs", "local.runs", "folder for the run's folder", path=True)

    evaluate = _command(
        parsers, commands.evaluate, "measure how well a fleet detects, on a folder of labelled files"
    )
    _flag(evaluate, "--data", "evaluate.data", "folder with one labelled file a client", path=True)
    _flag(evaluate, "--seeds", "evaluate.seeds", "runs of each row")
    evaluate.add_argument(
        "--new-client", dest="evaluate.new_client_rows", metavar="ROWS",
        help="also measure clients new to the fleet, with so many rows each [evaluate.new_client_rows]",
    )  # fmt: skip
    _flag(evaluate, "--workers", "evaluate.workers", "processes at work")
    _flag(evaluate, "--runs", "evaluate.runs", "folder for the evaluation's folder", path=True)
    return parser


def _keys_and_certificates(parsers: Any) -> None:
    text = "make a CA, the server's certificate and clients' keys, or say what is wrong with them"
    certs = parsers.add_parser("certs", help=text, description=text)
    certs.set_defaults(run=commands.certs, config=None, set=[], verbose=False)
    certs.add_argument("action", choices=["make", "check"], help="make: what is not there yet; then check")
    certs.add_argument("folder", type=Path, metavar="FOLDER")
    certs.add_argument(
        "--host", action="append", default=[], metavar="NAME",
        help="a name or address by which clients call the server; may be given several times",
    )  # fmt: skip
    certs.add_argument(
        "--client", action="append", default=[], metavar="NAME", help="a client to make a key for; likewise"
    )
    certs.add_argument("--days", type=int, default=365, help="that the server's certificate lasts")
    certs.add_argument(
        "--renew", action="store_true", help="make the server's certificate anew, by the same CA"
    )

    enroll = _command(parsers, commands.enroll, "register a client's public key; without one, list them")
    enroll.add_argument("client", nargs="?", metavar="NAME")
    enroll.add_argument("public_key", nargs="?", type=Path, metavar="KEY.pub")
    revoke = _command(parsers, commands.revoke, "shut a client out, at once")
    revoke.add_argument("client", metavar="NAME")
    revoke.add_argument(
        "--only", metavar="SHA256:...", help="fingerprint of the one key to revoke; without it, all of NAME"
    )
    for parser in (enroll, revoke):
        _flag(parser, "--state", "server.state", "the server's state folder", path=True)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Reads a number above zero."""

    def read(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
        return value

    return read


def _command(
    parsers: Any, run: Callable[[Settings, argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(run.__name__, help=help_text, description=help_text)
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
    found = {key: value for key, value in vars(given).items() if "." in key and value is not None}
    return [f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in found.items()]
