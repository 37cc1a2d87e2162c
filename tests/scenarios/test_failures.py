"""Failures: processes die, names clash, and schemas differ."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.scenarios.fleet import Federation
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

ENDLESS = {"federation.max_rounds": "100000", "federation.deadline_s": "1.5", "federation.quorum": "0.5"}


def serverapps(run: Federation) -> list[psutil.Process]:
    """The ServerApp processes below this federation's server."""
    return run.descendants_of_server("flwr-serverapp")


def test_a_client_killed_in_mid_round_leaves_the_round_to_its_quorum(federation) -> None:
    # Long rounds, so that the kill falls into one.
    run: Federation = federation(ENDLESS | {"training.epochs": "60"})
    run.start_server()
    for name in ("a", "b", "c"):
        run.start_client(run.rows(name, rows=2000))
    eventually(lambda: run.version() >= 2)
    os.kill(run.processes.pid("c"), signal.SIGKILL)
    killed_at = run.version()
    eventually(lambda: run.version() >= killed_at + 4)
    after = [r for r in run.rounds() if r["version"] > killed_at + 1]
    assert all(r["replies"] and "c" not in {reply["client"] for reply in r["replies"]} for r in after)
    failed = {client: why for r in run.rounds() for client, why in r["failed"].items()}
    assert "c" in failed


def test_a_killed_serverapp_is_resubmitted_and_continues_from_the_last_version(federation) -> None:
    run: Federation = federation(ENDLESS)
    run.start_server()
    for name in ("a", "b"):
        run.start_client(run.rows(name))
    eventually(lambda: run.version() >= 3)
    (app,) = serverapps(run)
    app.kill()
    version = run.version()
    eventually(lambda: run.version() >= version + 3)
    versions = [r["version"] for r in run.rounds()]
    assert versions == sorted(set(versions))
    assert "resubmitted" in run.log("server")


def test_a_server_killed_as_a_whole_continues_when_started_again_with_the_same_clients(federation) -> None:
    run: Federation = federation(ENDLESS)
    run.start_server()
    for name in ("a", "b"):
        run.start_client(run.rows(name))
    eventually(lambda: run.version() >= 3)
    run.kill_server()
    version = run.version()
    clients = [run.processes.pid(name) for name in ("a", "b")]
    run.start_server("server-again")
    eventually(lambda: run.version() >= version + 3)
    assert [run.processes.pid(name) for name in ("a", "b")] == clients
    assert all(run.processes.exit_code(name) is None for name in ("a", "b"))


def test_a_second_client_of_the_same_name_is_refused_until_the_first_has_left(federation) -> None:
    run: Federation = federation(ENDLESS)
    run.start_server()
    for name in ("a", "b"):
        run.start_client(run.rows(name))
    eventually(lambda: run.version() >= 1)
    run.start_client(run.rows("other"), name="a", state="impostor")
    eventually(lambda: "the name 'a' is in use" in run.log("impostor"))
    note = ("refused", "the name 'a' is in use by another connected client")
    eventually(lambda: note in run.notes())
    assert run.processes.exit_code("impostor") is None
    run.processes.end(["a"])
    version = run.version()
    eventually(lambda: run.version() >= version + 2)


def test_clients_with_other_features_are_refused_with_their_names_and_the_rest_continue(federation) -> None:
    run: Federation = federation({"federation.min_clients": "3"})
    run.start_client(run.rows("a", seed=1))
    run.start_client(run.rows("b", seed=2))
    run.start_client(run.rows("odd", prefix="g"))
    run.start_server()
    eventually(lambda: "missing 'f0', 'f1', 'f2'; extra 'g0', 'g1', 'g2'" in run.log("odd"))
    # Three must be ready, and the odd one is not: the run says who is refused, and goes on with a third.
    eventually(lambda: any(kind == "waiting" and "odd: columns differ" in text for kind, text in run.notes()))
    run.start_client(run.rows("c", seed=3))
    run.finish()
    assert {reply["client"] for r in run.rounds() for reply in r["replies"]} == {"a", "b", "c"}
