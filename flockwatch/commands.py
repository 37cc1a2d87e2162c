"""What each command does. Each loads only what it needs, and returns the exit code."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Callable

from common.config import ConfigError
from common.settings import CLIENT_NAME, Settings

WRONG_INPUT = 2
"""The exit code when settings, flags or files are wrong."""


def server(settings: Settings, given: argparse.Namespace) -> int:
    """Run the federation's server until it has converged."""
    from server.launch import serve

    stop = threading.Event()
    _on_signal(stop.set)
    print(serve(settings, stop))
    return 0


def client(settings: Settings, given: argparse.Namespace) -> int:
    """Take part in a federation, and score this machine's stream if it has one."""
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


def trainer(settings: Settings, given: argparse.Namespace) -> int:
    """The training half of `client`; ends with the process that started it."""
    from client import launch
    from common.processes import end_with_parent

    def on_ready(stop: Callable[[], None]) -> None:
        _on_signal(stop)
        end_with_parent(stop)

    launch.train(settings, on_ready)
    return 0


def detect(settings: Settings, given: argparse.Namespace) -> int:
    """Score a stream by one version."""
    from client import launch

    watch = launch.detecting(settings, given.manifest)
    _on_signal(watch.stop)
    watch.run()
    return 0


def _roll_back(settings: Settings, to: str | None) -> int:
    from client.launch import client_name, state_folder
    from client.versions.version_store import VersionStore

    store = VersionStore(state_folder(settings, client_name(settings)))
    if to == "newest":
        store.release()
        print("the newest version works again")
        return 0
    if to is not None and not to.isdecimal():
        raise ConfigError(f"--to {to}: expected a version's number, or 'newest'")
    print(f"rolled back to {store.roll_back(None if to is None else int(to))}")
    return 0


def status(settings: Settings, given: argparse.Namespace) -> int:
    """Print how a running federation and its clients are."""
    from flockwatch.fleet_table import show

    if settings.server.status is None:
        raise ConfigError("'server.status' is not set: name the address with --address HOST:PORT")
    show(settings.server.status)
    return 0


def inspect(settings: Settings, given: argparse.Namespace) -> int:
    """Print what a version holds."""
    from flockwatch.inspection import description

    print(description(given.manifest))
    return 0


def certs(settings: Settings, given: argparse.Namespace) -> int:
    """Make keys and certificates, then say what is wrong with them."""
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


def enroll(settings: Settings, given: argparse.Namespace) -> int:
    """Register a client's public key; without one, list them."""
    from common.security.keys import read_public
    from server.access.roster import Roster

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


def revoke(settings: Settings, given: argparse.Namespace) -> int:
    """Shut a client out."""
    from server.access.roster import Roster

    for entry in Roster(settings.server.state).revoke(given.client, given.only):
        print(f"{entry.client} is shut out: {entry.fingerprint} no longer counts")
    return 0


def _check_name(name: str) -> None:
    if re.fullmatch(CLIENT_NAME, name) is None:
        raise ConfigError(f"'{name}' is no client's name: expected up to 64 letters, digits, '.', '_', '-'")


def play(settings: Settings, given: argparse.Namespace) -> int:
    """Publish the telemetry of generated machines to a broker until a signal comes."""
    from flockwatch.simulation.player import publish

    stop = threading.Event()
    _on_signal(stop.set)
    publish(given.broker, given.machines, given.rate, given.fault_every, given.first_fault, given.seed, stop)
    return 0


def local(settings: Settings, given: argparse.Namespace) -> int:
    """Run a whole federation on this machine."""
    from flockwatch.simulation.local import run

    # EndOfStreamError by a signal or by an error, the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def evaluate(settings: Settings, given: argparse.Namespace) -> int:
    """Measure how well a fleet detects."""
    from flockwatch.quality.evaluation import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(settings)


def _on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
