"""A server that serves: clients learn in sight of everyone, and a fleet may grow after it has converged."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.processes.children import Processes
from server.federation import status_file
from server.flower.superlink_process import free_port
from tests.scenarios.fleet import Federation
from tests.scenarios.live import Machine
from tests.scenarios.secured import Secured
from tests.waiting import PATIENCE_S, eventually

ENDLESS = {"federation.max_rounds": "null", "model.window": "1", "model.hidden": "[8,2,8]"}
FLAGS = ("--set", "live.incident_margin=8")


@pytest.mark.e2e
def test_a_second_fleet_joins_after_the_first_has_converged(
    tmp_path: Path, processes: Processes, federation: Callable[..., Federation]
) -> None:
    fleet = federation(
        {
            **ENDLESS,
            "federation.patience": "2",
            "federation.min_improvement": "0.9",
            "federation.converged_interval_s": "100000",
        }
    )
    fleet.start_server()
    machines = {
        name: Machine(tmp_path, processes, name, fleet.address, flags=FLAGS)
        for name in ("one", "two", "three", "four")
    }
    for name in ("one", "two"):
        machines[name].start()
        machines[name].feed(300)
    eventually(lambda: (status_file.read(fleet.state / "fleet.json") or {}).get("converged"))
    reached = fleet.version()
    for name in ("three", "four"):
        machines[name].start()
        machines[name].feed(300)
    for name in ("three", "four"):
        eventually(lambda m=machines[name]: (m.health()["version"] or 0) > reached)
        assert "refused" not in machines[name].problems()
    assert processes.exit_code("server") is None


def test_learning_is_shown_everywhere_and_a_client_that_learns_detects_with_the_fleets_version(
    tmp_path: Path, processes: Processes, secured: Callable[..., Secured]
) -> None:
    port = free_port()
    fleet = secured({**ENDLESS, "server.status": f"127.0.0.1:{port}"})
    for name in ("one", "two", "three"):
        fleet.enroll(name)
    fleet.start_server()
    eventually(lambda: "superlink ready" in fleet.log("server"))

    def machine(name: str, wanted: int) -> Machine:
        flags = (*FLAGS, *fleet.credentials(name), "--set", f"client.min_rows={wanted}")
        made = Machine(tmp_path, processes, name, fleet.address, flags=flags)
        made.start()
        return made

    def status() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=PATIENCE_S) as answer:
            shown: dict[str, Any] = json.load(answer)
        return shown

    def client(name: str) -> dict[str, Any]:
        result: dict[str, Any] = status()["clients"].get(name, {})
        return result

    one = machine("one", 200)
    one.feed(60)
    eventually(lambda: (one.health()["learning"] or {}).get("events") == 52)  # 8 are held back
    assert one.health()["learning"]["wanted"] == 200
    assert one.metric("buffered_events") == 52
    assert one.metric("learning_wanted_events") == 200
    eventually(lambda: "learning 52 of 200 events" in one.log())
    eventually(lambda: client("one").get("why", "").startswith("learning 52 of 200 events"))
    assert client("one")["state"] == "learning"
    assert (client("three")["state"], client("three")["why"]) == ("enrolled", "registered, never connected")
    waiting = status()["waiting"]
    assert waiting.startswith("0 of 2 clients ready") and "one learning 52 of 200 events" in waiting
    assert "waiting for 1 more client to connect; registered, never connected: three, two" in waiting

    one.feed(200)
    eventually(lambda: client("one")["state"] == "idle")
    assert one.health()["learning"] is None
    two = machine("two", 100)
    two.feed(300)
    for each in (one, two):
        eventually(lambda m=each: (m.health()["version"] or 0) > 0)

    three = machine("three", 100_000)
    three.feed(60)
    eventually(lambda: (three.health()["version"] or 0) > 0)
    assert three.health()["learning"]["wanted"] == 100_000
    eventually(lambda: client("three")["state"] == "learning")
