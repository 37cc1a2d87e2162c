"""Asynchronous rounds with real processes: when one dies, stops or is cut off, the others continue."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from tests.scenarios.fleet import Federation
from tests.scenarios.link import SERVER_SIDE, Network
from tests.scenarios.secured import Secured
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

NAMES = ("a", "b", "c")
VERSIONS = 24
STREAM = {
    "federation.mode": "asynchronous",
    "federation.buffer": "2",
    "federation.min_clients": "3",
    "federation.max_rounds": "100000",
    "server.keep_versions": "100000",
    # Tasks of some tenths of a second, so that whatever happens, happens in the midst of some.
    "training.epochs": "15",
}


def streaming(federation: Any, **settings: str) -> Federation:
    """A running federation of three, past its first versions."""
    run: Federation = federation(STREAM | {k.replace("__", "."): v for k, v in settings.items()})
    run.start_server()
    for name in NAMES:
        run.start_client(run.rows(name, rows=2000))
    eventually(lambda: run.version() >= 2)
    return run


def admitted(run: Federation, name: str) -> int:
    return int(run.clients().get(name, {}).get("admitted", 0))


def state(run: Federation, name: str) -> str:
    return str(run.clients().get(name, {}).get("state"))


def goes_on(run: Federation, versions: int = 3) -> None:
    """More versions come."""
    version = run.version()
    eventually(lambda: run.version() >= version + versions)


@pytest.mark.parametrize("victim", ["flwr-serverapp", "server.flower.superlink", "server"])
def test_whatever_part_of_the_server_dies_the_run_ends_with_all_its_versions(federation, victim: str) -> None:
    run = streaming(federation, federation__max_rounds=str(VERSIONS))
    clients = {name: run.processes.pid(name) for name in NAMES}
    before = run.version()
    if victim == "server":
        run.kill_server()
        run.processes.end(["server"])
        run.start_server()
    else:
        for process in run.descendants_of_server(victim):
            process.kill()
    counted = {name: admitted(run, name) for name in NAMES}
    run.finish()
    assert before < VERSIONS
    assert run.stored_versions() == list(range(VERSIONS + 1))
    assert (run.state / "ended").read_text() == f"{VERSIONS} rounds done"
    assert {name: run.processes.pid(name) for name in NAMES} == clients
    assert all(run.processes.exit_code(name) is None for name in NAMES)
    # The same clients took part before and after; their records outlived the server.
    assert all(admitted(run, name) > counted[name] for name in NAMES)


def test_a_killed_client_is_noticed_within_seconds_and_is_known_when_it_returns(federation) -> None:
    run = streaming(federation)
    eventually(lambda: admitted(run, "c") > 0)
    os.kill(run.processes.pid("c"), signal.SIGKILL)
    eventually(lambda: run.processes.exit_code("c") is not None)
    eventually(lambda: state(run, "c") == "gone", within_s=60)
    goes_on(run)
    counted = admitted(run, "c")
    run.processes.end(["c"])
    run.start_client(run.folder / "c.parquet")
    eventually(lambda: admitted(run, "c") > counted)
    assert run.has_all_versions()


def test_a_stopped_process_of_a_client_delays_no_other_client_and_continues_when_it_is_resumed(
    federation,
) -> None:
    run = streaming(federation)
    eventually(lambda: admitted(run, "c") > 0)
    client = psutil.Process(run.processes.pid("c"))
    client.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: state(run, "c") == "gone")
        goes_on(run)
        counted = admitted(run, "c")
    finally:
        client.send_signal(signal.SIGCONT)
    eventually(lambda: admitted(run, "c") > counted)
    eventually(lambda: run.clients()["c"]["behind"] <= 3)  # and is given the newest version
    assert run.processes.exit_code("c") is None
    assert run.has_all_versions()


def across(secured: Any, network: Network) -> Federation:
    """A running federation over TLS whose client `c` is connected over a slow or broken link."""
    run: Secured = secured(STREAM | {"server.host": "0.0.0.0"}, hosts=(SERVER_SIDE,))
    for name in NAMES:
        run.enroll(name)
    run.command_prefixes = dict.fromkeys(("server", "a", "b"), network.command_prefix(network.server))
    run.command_prefixes["c"] = network.command_prefix(network.client_side)
    run.start_server()
    for name in ("a", "b"):
        run.start_client(run.rows(name, rows=2000))
    run.start_client(run.rows("c", rows=2000), server=f"{SERVER_SIDE}:{run.port}")
    eventually(lambda: admitted(run, "c") > 0)
    return run


def test_a_network_that_is_cut_and_heals_costs_only_the_time_of_the_cut(secured, network: Network) -> None:
    run = across(secured, network)
    client = run.processes.pid("c")
    network.set(loss=1.0)
    eventually(lambda: state(run, "c") == "gone")
    goes_on(run)
    counted = admitted(run, "c")
    network.set(loss=0.0)
    eventually(lambda: admitted(run, "c") > counted + 1)
    assert run.processes.pid("c") == client
    assert run.processes.exit_code("c") is None
    assert run.has_all_versions()


def test_over_a_slow_and_lossy_link_a_client_takes_part_at_its_own_pace(secured, network: Network) -> None:
    run = across(secured, network)
    network.set(delay_s=0.15, loss=0.05)
    counted = {name: admitted(run, name) for name in NAMES}
    eventually(lambda: admitted(run, "c") > counted["c"] + 2)
    assert admitted(run, "a") - counted["a"] > 2
    assert sum(run.clients()["c"]["refused"].values()) == 0
    network.set()
    assert run.processes.exit_code("c") is None
    assert run.has_all_versions()
