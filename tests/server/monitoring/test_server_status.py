from __future__ import annotations

import io
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from common.display import printable
from common.settings import FederationSettings
from flockwatch import cli
from flockwatch.fleet_table import StatusUnavailableError, fetch, render
from server.coordination.state import ConnectedClient, PendingTask, State
from server.federation import status_file
from server.federation.client_records import ClientRecords
from server.monitoring.status import STALE_S, MetricsCollector, ServerStatus
from server.monitoring.status_server import StatusServer
from server.storage.history import History
from tests.names import NAMES
from tests.server.descriptions import description

RULES = FederationSettings(mode="asynchronous", buffer=3)


def state() -> State:
    """Return a state with one client that works, one that is late and one that is refused."""
    return State(
        version=7,
        clients={
            1: ConnectedClient("ready", 0.0, description("a", "i", ("cpu",))),
            2: ConnectedClient("ready", 0.0, description("b", "i", ("cpu",))),
            3: ConnectedClient("refused", 0.0, description("c", "i", ("disk",)), "columns differ"),
        },
        tasks={
            1: PendingTask(11, "train", "a", 7, 90.0, 130.0, 0),
            2: PendingTask(12, "train", "b", 5, 50.0, 80.0, 0, awaited=False),
        },
        waiting_since=95.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = ClientRecords(
        {
            "a": {"version": 7, "error": 0.5, "rows": 10, "admitted": 4, "sent_bytes": 70, "encode_s": 0.5},
            "b": {"version": 5, "admitted": 2, "refused": {"not finite": 3}, "clipped": 1},
            "d": {"version": 1, "admitted": 9},
        }
    )
    status_file.write(tmp_path / "fleet.json", status_file.run_status(state(), records, 100.0, RULES))
    return tmp_path


def test_the_status_has_each_clients_state_and_reason(folder: Path) -> None:
    clients = ServerStatus(folder, lambda: True).status()["clients"]
    assert {name: client["state"] for name, client in clients.items()} == {
        "a": "working", "b": "late", "c": "refused", "d": "gone",
    }  # fmt: skip
    assert clients["a"]["why"] == "trains on version 7 for 10 s, due in 30 s"
    assert clients["b"]["why"] == "trains on version 5 for 50 s, overdue by 20 s"
    assert clients["c"]["why"] == "columns differ"
    assert [clients[name].get("behind") for name in "abcd"] == [0, 2, None, 6]


def test_the_status_has_clients_that_learn_and_registered_ones_that_never_came(tmp_path: Path) -> None:
    described = description("a", "i", ("cpu",), rows=312, wanted=500)
    learns = ConnectedClient("learning", 0.0, described, learned_from=(300, 88.0), described_at=100.0)
    records = ClientRecords({"b": {"admitted": 1}})
    records.note_seen(["a", "b"])
    shown = status_file.run_status(
        State(clients={1: learns}, waiting_since=95.0), records, 100.0, RULES, ["c"]
    )
    status_file.write(tmp_path / "fleet.json", shown)
    status = ServerStatus(tmp_path, lambda: True).status()
    assert {name: (client["state"], client["why"]) for name, client in status["clients"].items()} == {
        "a": ("learning", "learning 312 of 500 events, about 3 minutes"),
        "b": ("gone", ""),
        "c": ("enrolled", "registered, never connected"),
    }
    assert status["waiting"] == (
        "0 of 2 clients ready after 5 s; a learning 312 of 500 events, about 3 minutes; "
        "waiting for 1 more client to connect; registered, never connected: c"
    )
    assert set(status_file.read_client_records(tmp_path / "fleet.json")) == {"a", "b"}
    assert "registered, never connected" in printed(status)


def printed(status: dict[str, Any]) -> str:
    """Return what `flockwatch status` prints."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(status))
    return console.export_text()


def test_the_status_has_what_the_run_waits_for(folder: Path) -> None:
    status = ServerStatus(folder, lambda: False).status()
    assert status["superlink"] == "down"
    assert status["waiting"].startswith("version 8: 0 of 3 updates received after 5 s; working: a")
    assert "refused: c: columns differ" in status["waiting"]


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def test_metrics_of_each_client(folder: Path) -> None:
    server = StatusServer(
        "127.0.0.1:0", ServerStatus(folder, lambda: True), History(folder / "history.sqlite")
    )
    try:
        text = get(server.port, "/metrics").decode()
        shown = json.loads(get(server.port, "/status"))
        health = json.loads(get(server.port, "/healthz"))
    finally:
        server.close()
    samples = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["flockwatch_server_version",] == 7
    assert samples["flockwatch_client_updates_admitted_total", "a"] == 4
    assert samples["flockwatch_client_updates_refused_total", "b", "not finite"] == 3
    assert samples["flockwatch_server_clients", "late"] == 1
    assert samples["flockwatch_client_error", "a"] == 0.5
    assert samples["flockwatch_client_http_bytes_total", "a", "up"] == 70
    assert samples["flockwatch_client_codec_seconds_total", "a", "encode"] == 0.5
    assert shown["version"] == health["version"] == 7
    assert health["status"] == "ok"


def test_a_silent_serverapp_is_not_healthy(folder: Path) -> None:
    now = [0.0]
    status = ServerStatus(folder, lambda: True, lambda: now[0])
    assert status.health()[0] == 200
    now[0] = STALE_S / 2
    assert status.health()[0] == 200
    now[0] = STALE_S * 2
    assert status.health()[0] == 503
    shown = status_file.read(folder / "fleet.json")
    assert shown is not None
    status_file.write(folder / "fleet.json", shown | {"stopped": "converged"})
    assert status.health()[0] == 200


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 1e9, -1e9])
def test_a_clock_that_is_set_neither_hides_a_silent_serverapp_nor_makes_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    now, wall = [0.0], time.time()
    status = ServerStatus(folder, lambda: True, lambda: now[0])
    shown = status_file.read(folder / "fleet.json")
    assert shown is not None
    monkeypatch.setattr(time, "time", lambda: wall + jump_s + now[0])
    for now[0] in (70.0, 71.0, 72.0):
        status_file.write(folder / "fleet.json", shown | {"at": time.time()})
        assert status.health()[0] == 200
    monkeypatch.setattr(time, "time", lambda: wall + now[0])  # it is set back
    now[0] = 73.0
    status_file.write(folder / "fleet.json", shown | {"at": time.time()})
    assert status.status()["silent_s"] <= 1
    now[0] = 73.0 + STALE_S + 1
    monkeypatch.setattr(time, "time", lambda: wall + jump_s)
    assert status.health()[0] == 503


def test_the_status_before_the_first_run(tmp_path: Path) -> None:
    status = ServerStatus(tmp_path, lambda: False)
    assert status.status()["clients"] == {}
    assert status.health()[0] == 200
    (tmp_path / "fleet.json").write_text("{half")
    assert status.status()["version"] is None


def test_the_command_prints_a_row_for_each_client(folder: Path, capsys: Any) -> None:
    server = StatusServer(
        "127.0.0.1:0", ServerStatus(folder, lambda: True), History(folder / "history.sqlite")
    )
    try:
        assert cli.main(["status", "--address", f"127.0.0.1:{server.port}"]) == 0
    finally:
        server.close()
    printed = capsys.readouterr().out
    for part in ("version 7", "3 not finite, 1 clipped", "columns differ", "working: a", "gone"):
        assert part in printed


def test_the_command_reports_a_server_that_does_not_answer(capsys: Any) -> None:
    with pytest.raises(StatusUnavailableError):
        fetch("127.0.0.1:1")
    assert cli.main(["status", "--address", "127.0.0.1:1"]) == 1
    assert "http://127.0.0.1:1/status" in capsys.readouterr().err
    assert cli.main(["status"]) == 2
    assert "server.status" in capsys.readouterr().err


def test_names_of_clients_are_text_in_status_metrics_and_terminal(tmp_path: Path) -> None:
    records = ClientRecords({name: {"version": 1, "refused": {name: 1}} for name in NAMES})
    odd = ConnectedClient("refused", 0.0, description("odd", "i", NAMES), f"columns differ: {NAMES}")
    run = State(version=1, clients={1: odd})
    status_file.write(tmp_path / "fleet.json", status_file.run_status(run, records, 100.0, RULES))
    server = ServerStatus(tmp_path, lambda: True)
    assert set(NAMES) <= server.status()["clients"].keys()
    samples = [
        sample
        for family in text_string_to_metric_families(MetricsCollector(server).text().decode())
        for sample in family.samples
    ]
    assert set(NAMES) <= {sample.labels.get("client") for sample in samples}
    console = Console(file=io.StringIO(), width=5000, force_terminal=True, color_system=None)
    console.print(render(server.status()))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for name in NAMES:
        assert printable(name).strip() in text
    assert all(line.isprintable() for line in text.split("\n"))
