"""The commands. Each imports only the packages that it needs, and returns its exit code."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable

from common.config import ConfigError
from common.display import printable
from common.settings import CLIENT_NAME, Settings

WRONG_INPUT = 2
"""Exit code when settings, arguments or files are wrong."""


def server(settings: Settings, options: argparse.Namespace) -> int:
    """Run the server of a federation until a signal comes, or until `federation.max_rounds` versions."""
    from server.launch import serve

    os.umask(0o077)  # also for SuperLink and the ServerApp, which inherit it
    stop = threading.Event()
    _on_signal(stop.set)
    print(serve(settings, stop))
    return 0


def client(settings: Settings, options: argparse.Namespace) -> int:
    """Train in a federation, and score a live stream of events if there is one."""
    from client import launch

    if options.action == "rollback":
        return _roll_back(settings, options.to)
    if options.action == "accept":
        return _accept(settings)
    if settings.live.source is None:
        launch.train(settings, _on_signal)
        return 0
    detector = launch.live_client(settings)
    _on_signal(detector.stop)
    return detector.run()


def trainer(settings: Settings, options: argparse.Namespace) -> int:
    """Train in a federation; end when the process that started this one ends."""
    from client import launch
    from common.processes.children import end_with_parent

    def on_ready(stop: Callable[[], None]) -> None:
        _on_signal(stop)
        end_with_parent(stop)

    launch.train(settings, on_ready)
    return 0


def detect(settings: Settings, options: argparse.Namespace) -> int:
    """Score a live stream of events by one version."""
    from client import launch

    detector = launch.detector(settings, options.manifest)
    _on_signal(detector.stop)
    return detector.run()


def score(settings: Settings, options: argparse.Namespace) -> int:
    """Print the score, threshold, verdict and causes of each row of a file."""
    from flockwatch.row_scores import show

    show(options.data, options.manifest, settings, as_json=options.json)
    return 0


def _roll_back(settings: Settings, to: str | None) -> int:
    from client.launch import client_name, state_folder
    from client.versions.version_store import VersionStore

    store = VersionStore(state_folder(settings, client_name(settings)))
    if to == "newest":
        store.release()
        print("the newest model version is used again")
        return 0
    if to is not None and not to.isdecimal():
        raise ConfigError(f"--to {to}: expected the number of a model version, or 'newest'")
    print(f"rolled back to {store.roll_back(None if to is None else int(to))}; undo it with --to newest")
    return 0


def _accept(settings: Settings) -> int:
    from client.launch import client_name, state_folder
    from client.service.accept import accept

    name = settings.client.name if settings.client.state is not None else client_name(settings)
    print(accept(state_folder(settings, name or "")))
    return 0


def status(settings: Settings, options: argparse.Namespace) -> int:
    """Print the status of a running server and its clients."""
    from flockwatch.fleet_table import show

    if settings.server.status is None:
        raise ConfigError(
            "'server.status' is not set: pass the server's --status address, --address HOST:PORT"
        )
    show(settings.server.status)
    return 0


def inspect(settings: Settings, options: argparse.Namespace) -> int:
    """Print what a version contains, or how the columns of a data file are read."""
    from client.data.files.names import SUFFIXES
    from flockwatch.inspection import data_description, description

    is_data = options.file.name.endswith(SUFFIXES)
    text = data_description(options.file, settings.data) if is_data else description(options.file)
    print(printable(text, keep_lines=True))
    return 0


def certs(settings: Settings, options: argparse.Namespace) -> int:
    """Create missing keys and certificates if asked to, and print the problems of all."""
    from flockwatch.certs import Certificates

    certificates = Certificates(options.folder)
    if options.action == "make":
        if options.days < 1:
            raise ConfigError(f"--days {options.days}: expected at least 1")
        for name in options.client:
            _check_name(name)
        for line in certificates.make(options.host, options.client, options.days, options.renew):
            print(line)
    problems = list(certificates.problems(options.host))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return WRONG_INPUT
    for warning in certificates.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.folder}: no problems found")
    return 0


def enroll(settings: Settings, options: argparse.Namespace) -> int:
    """Register the public key of a client; without arguments, list all clients."""
    from common.security.keys import read_public_key
    from common.security.tokens import edge_token
    from server.access.roster import Roster

    roster = Roster(settings.server.state)
    if options.client is None:
        for entry in roster.entries():
            state = f"revoked {entry.revoked}" if entry.revoked else f"enrolled {entry.enrolled}"
            print(f"{entry.client}  {entry.fingerprint}  {state}")
        return 0
    _check_name(options.client)
    secret = settings.server.alerts_token
    if options.public_key is not None:
        entry = roster.enroll(options.client, read_public_key(options.public_key))
        print(f"enrolled {entry.client} with key {entry.fingerprint}")
    elif secret is None:
        raise ConfigError(
            f"enroll {options.client}: expected the file of its public key as the second argument, "
            "or server.alerts_token, to print the client's token for notices"
        )
    if secret is not None:
        print(f"token of {options.client} for notices: {edge_token(secret, options.client)}")
    return 0


def revoke(settings: Settings, options: argparse.Namespace) -> int:
    """Revoke keys of a client."""
    from server.access.roster import Roster

    for entry in Roster(settings.server.state).revoke(options.client, options.only):
        print(f"revoked key {entry.fingerprint} of {entry.client}")
    return 0


def _check_name(name: str) -> None:
    if re.fullmatch(CLIENT_NAME, name) is None:
        raise ConfigError(
            f"'{name}' is not a client name: expected up to 64 letters, digits, '.', '_' and '-'"
        )


def play(settings: Settings, options: argparse.Namespace) -> int:
    """Publish the telemetry of generated machines to a broker until a signal comes."""
    from flockwatch.simulation.player import publish

    stop = threading.Event()
    _on_signal(stop.set)
    publish(
        options.broker,
        options.machines,
        options.rate,
        options.fault_every,
        options.first_fault,
        options.seed,
        stop,
    )
    return 0


def local(settings: Settings, options: argparse.Namespace) -> int:
    """Run a whole federation on this machine."""
    from flockwatch.simulation.local import run

    # SystemExit ends the child processes, as an error does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def evaluate(settings: Settings, options: argparse.Namespace) -> int:
    """Measure how well a fleet detects anomalies in labelled files."""
    from flockwatch.quality.evaluation import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def _on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
