"""The command line: reads flags, loads settings, starts one part, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import config
from common.config import ConfigError
from common.settings import CLIENT_NAME, Settings

WRONG_INPUT = 2
WRONG_INPUT_ERRORS = {
    "AddressError",
    "CertificateError",
    "ConfigError",
    "DataError",
    "IdentityError",
    "KeyFileError",
    "ManifestError",
    "PartitionError",
    "RosterError",
    "SchemaError",
    "SourceError",
    "StoreError",
    "TransferError",
}
"""By name: importing them all would load what a machine that only detects does not have."""
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
    _flag(server, "--certificate", "server.tls_certificate", "PEM that clients are shown", path=True)
    _flag(server, "--key", "server.tls_key", "its private key", path=True)
    _flag(server, "--status", "server.status", "HOST:PORT of the status page and /metrics", path=True)

    status = _command(commands, "status", _status, "print how a running federation and its clients are")
    _flag(status, "--address", "server.status", "where the server serves /status", path=True)

    client = _command(
        commands, "client", _client, "take part in a federation, and score this machine's own stream"
    )
    client.add_argument(
        "action", nargs="?", choices=["rollback"], help="rollback: work with an earlier version from now on"
    )
    client.add_argument(
        "--to", metavar="VERSION", default=None,
        help="of rollback: the version, or 'newest' to undo it; without it the one before",
    )  # fmt: skip
    trainer = _command(commands, "trainer", _trainer, "the training half of `client`, which starts it")
    for parser_ in (client, trainer):
        _flag(parser_, "--data", "client.data", "CSV or Parquet file with this client's rows", path=True)
        _flag(parser_, "--name", "client.name", "the client's name, unique in the fleet")
        _flag(parser_, "--server", "client.server", "the server, as host:port")
        _flag(parser_, "--state", "client.state", "folder for what the client keeps", path=True)
        _flag(parser_, "--ca", "client.tls_ca", "PEM of the CA of the server's certificate", path=True)
        _flag(parser_, "--key", "client.key", "this client's private key, enrolled at the server", path=True)

    detect = _command(commands, "detect", _detect, "score a stream by one version; never train")
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

    inspect = commands.add_parser(
        "inspect", help="print what a version holds", description="print what a version holds"
    )
    inspect.set_defaults(run=_inspect, config=None, set=[], verbose=False)
    inspect.add_argument("manifest", type=Path, metavar="FILE")

    _keys_and_certificates(commands)

    text = "generated machines send their telemetry to an MQTT broker, with a fault now and then"
    play = commands.add_parser("play", help=text, description=text)
    play.set_defaults(run=_play, config=None, set=[], verbose=False)
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

    local = _command(
        commands, "local", _local, "run a whole federation on this machine, one process a client"
    )
    _flag(local, "--data", "local.data", "folder with one file a client, or one file to divide", path=True)
    _flag(local, "--clients", "local.clients", "among how many clients to divide one file")
    _flag(local, "--partition", "local.partition", "how: iid, contiguous, column, dirichlet")
    _flag(local, "--column", "local.column", "the column that names each row's client")
    _flag(local, "--runs", "local.runs", "folder for the run's folder", path=True)

    evaluate = _command(
        commands, "evaluate", _evaluate, "measure how well a fleet detects, on a folder of labelled files"
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


def _keys_and_certificates(commands: Any) -> None:
    text = "make a CA, the server's certificate and clients' keys, or say what is wrong with them"
    certs = commands.add_parser("certs", help=text, description=text)
    certs.set_defaults(run=_certs, config=None, set=[], verbose=False)
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

    enroll = _command(commands, "enroll", _enroll, "register a client's public key; without one, list them")
    enroll.add_argument("client", nargs="?", metavar="NAME")
    enroll.add_argument("public_key", nargs="?", type=Path, metavar="KEY.pub")
    revoke = _command(commands, "revoke", _revoke, "shut a client out, at once")
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
    found = {key: value for key, value in vars(given).items() if "." in key and value is not None}
    return [f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in found.items()]


def _is_wrong_input(error: Exception) -> bool:
    named = {kind.__name__ for kind in type(error).__mro__}
    return bool(named & WRONG_INPUT_ERRORS)


def _server(settings: Settings, given: argparse.Namespace) -> int:
    from server.launch import serve

    stop = threading.Event()
    _on_signal(stop.set)
    print(serve(settings, stop))
    return 0


def _client(settings: Settings, given: argparse.Namespace) -> int:
    from client import launch

    if given.action == "rollback":
        return _roll_back(settings, given.to)
    if settings.live.source is None:
        launch.train(settings, _on_signal)
        return 0
    watch = launch.watching(settings)
    _on_signal(watch.stop)
    watch.run()
    return 0


def _trainer(settings: Settings, given: argparse.Namespace) -> int:
    from client import launch, supervisor

    def on_ready(stop: Callable[[], None]) -> None:
        _on_signal(stop)
        supervisor.end_with_parent(stop)

    launch.train(settings, on_ready)
    return 0


def _detect(settings: Settings, given: argparse.Namespace) -> int:
    from client import launch

    watch = launch.detecting(settings, given.manifest)
    _on_signal(watch.stop)
    watch.run()
    return 0


def _roll_back(settings: Settings, to: str | None) -> int:
    from client.launch import client_name, state_folder
    from client.store import Store

    store = Store(state_folder(settings, client_name(settings)))
    if to == "newest":
        store.release()
        print("the newest version works again")
        return 0
    if to is not None and not to.isdecimal():
        raise ConfigError(f"--to {to}: expected a version's number, or 'newest'")
    print(f"rolled back to {store.roll_back(None if to is None else int(to))}")
    return 0


def _status(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.fleet_table import show

    if settings.server.status is None:
        raise ConfigError("'server.status' is not set: name the address with --address HOST:PORT")
    show(settings.server.status)
    return 0


def _inspect(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.inspection import description

    print(description(given.manifest))
    return 0


def _certs(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.certs import Certificates

    certificates = Certificates(given.folder)
    if given.action == "make":
        if given.days < 1:
            raise ConfigError(f"--days {given.days}: expected at least 1")
        for name in given.client:
            _check_name(name)
        for made in certificates.make(given.host, given.client, given.days, given.renew):
            print(made)
    problems = list(certificates.problems(given.host))
    for problem in problems:
        print(f"wrong: {problem}", file=sys.stderr)
    if problems:
        return WRONG_INPUT
    for warning in certificates.warnings():
        print(f"soon: {warning}", file=sys.stderr)
    print(f"{given.folder}: all is well")
    return 0


def _enroll(settings: Settings, given: argparse.Namespace) -> int:
    from common.keys import read_public
    from server.roster import Roster

    roster = Roster(settings.server.state)
    if given.client is None:
        for entry in roster.entries():
            state = f"revoked {entry.revoked}" if entry.revoked else f"enrolled {entry.enrolled}"
            print(f"{entry.client}  {entry.fingerprint}  {state}")
        return 0
    if given.public_key is None:
        raise ConfigError(f"enroll {given.client}: expected the file of its public key, KEY.pub")
    _check_name(given.client)
    entry = roster.enroll(given.client, read_public(given.public_key))
    print(f"{entry.client} may take part by {entry.fingerprint}")
    return 0


def _revoke(settings: Settings, given: argparse.Namespace) -> int:
    from server.roster import Roster

    for entry in Roster(settings.server.state).revoke(given.client, given.only):
        print(f"{entry.client} is shut out: {entry.fingerprint} no longer counts")
    return 0


def _check_name(name: str) -> None:
    if re.fullmatch(CLIENT_NAME, name) is None:
        raise ConfigError(f"'{name}' is no client's name: expected up to 64 letters, digits, '.', '_', '-'")


def _play(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.play import play

    stop = threading.Event()
    _on_signal(stop.set)
    play(given.broker, given.machines, given.rate, given.fault_every, given.first_fault, given.seed, stop)
    return 0


def _local(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.local import run

    # Ended by a signal or by an error, the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def _evaluate(settings: Settings, given: argparse.Namespace) -> int:
    from flockwatch.quality.evaluation import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def _on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
