"""A fleet of live machines, and what may befall one: every fault with real processes and real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from client.versions.version_store import VersionStore
from common.processes.children import Processes
from server.flower.superlink_process import free_port
from server.storage.registry import Registry
from tests.contracts.broker import Broker
from tests.scenarios.fleet import Federation
from tests.scenarios.live import Machine, train_together
from tests.waiting import eventually

SET = ("threshold.budget=1 per week", "live.end_after=3", "live.incident_margin=8")
FLAGS = tuple(flag for value in SET for flag in ("--set", value))
SERVER = {
    "federation.max_rounds": "8",
    "model.window": "1",
    "model.hidden": "[8,2,8]",
    "training.epochs": "5",
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that two live machines have learned together."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "server").mkdir()
    with Processes() as processes:
        federation = Federation(folder, processes, SERVER)
        federation.start_server()
        machines = [Machine(folder, processes, n, federation.address, flags=FLAGS) for n in ("one", "two")]
        train_together(federation, machines)
        for machine in machines:
            machine.send_fault()
            machine.expect_incidents(1)
    newest = Registry(folder / "server" / "versions", keep=10).latest()
    assert newest is not None and newest[0].version == 8
    path = folder / "learned.safetensors"
    path.write_bytes(newest[0].pack())
    return path


@pytest.fixture
def machine(tmp_path: Path, processes: Processes, manifest: Path) -> Callable[..., Machine]:
    """Makes a machine that has taken part already, so that it detects from its first event on."""

    def make(name: str = "edge", **changes: object) -> Machine:
        made = Machine(tmp_path, processes, name, flags=FLAGS, **changes)  # type: ignore[arg-type]
        store = VersionStore(made.state)
        store.offer(manifest.read_bytes())
        candidate = store.candidate()
        assert candidate is not None
        store.accept(candidate)
        return made

    return make


def trainer_of(machine: Machine) -> psutil.Process | None:
    children = psutil.Process(machine.processes.pid(machine.name)).children()
    return next((child for child in children if "trainer" in child.cmdline()), None)


def test_from_cold_boot_without_a_server_a_machine_detects(
    machine: Callable[..., Machine],
) -> None:
    one = machine()
    one.start()
    one.feed(300)
    one.send_fault()
    one.expect_incidents(1)
    assert one.health()["version"] == 8
    assert (one.state / "source.json").exists() or eventually((one.state / "source.json").exists)


def test_with_the_server_killed_detection_continues_and_learning_does_when_it_is_back(
    tmp_path: Path, processes: Processes, federation: Callable[..., Federation]
) -> None:
    fleet = federation({**SERVER, "federation.max_rounds": "400", "training.epochs": "1"})
    machines = [Machine(tmp_path, processes, name, fleet.address, flags=FLAGS) for name in ("one", "two")]
    fleet.start_server()
    for one in machines:
        one.start()
        one.feed(800)
    eventually(lambda: min(one.health()["version"] or 0 for one in machines) >= 3)
    os.kill(processes.pid("server"), signal.SIGKILL)
    processes.end(["server"])
    for one in machines:
        one.feed(200)
        one.send_fault()
        one.expect_incidents(1)
    reached = max(one.health()["version"] for one in machines)
    fleet.start_server()
    eventually(lambda: min(one.health()["version"] for one in machines) > reached)
    for one in machines:
        one.send_fault()
        one.expect_incidents(2)


def test_with_the_trainer_killed_in_mid_training_detection_continues_and_a_new_one_trains(
    tmp_path: Path, processes: Processes, federation: Callable[..., Federation]
) -> None:
    endless = {"federation.max_rounds": "400", "federation.patience": "0", "federation.min_clients": "1"}
    fleet = federation(SERVER | endless)
    fleet.start_server()
    one = Machine(tmp_path, processes, "one", fleet.address, flags=FLAGS)
    one.start()
    one.feed(800)
    eventually(lambda: (one.health()["version"] or 0) >= 3)
    trainer = trainer_of(one)
    assert trainer is not None
    trainer.kill()
    one.feed(200)
    one.send_fault()
    one.expect_incidents(1)
    eventually(lambda: "trainer ended with code -9; started again" in one.problems())
    reached = one.health()["version"]
    eventually(lambda: one.health()["version"] > reached)
    assert one.metric("trainer_restarts_total") == 1
    eventually(lambda: one.metric("trainer_memory_bytes") > 0)


def test_a_killed_detector_takes_its_trainer_with_it_and_starts_again_from_its_disk(
    machine: Callable[..., Machine],
) -> None:
    one = machine()
    one.start()
    one.feed(300)
    eventually(lambda: one.metric("buffered_events") > 200)
    trainer = eventually(lambda: trainer_of(one))
    os.kill(one.processes.pid(one.name), signal.SIGKILL)
    trainer.wait(60)
    one.kill()
    one.start()
    eventually(lambda: one.health()["version"] == 8)
    one.feed(100)
    one.send_fault()
    one.expect_incidents(1)


class Hook:
    """A webhook that can be down."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[dict[str, object]] = []
        self.url = f"http://127.0.0.1:{self.port}/alerts"

    def start(self) -> None:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_webhook_that_is_down_for_a_while_gets_every_notice_even_after_a_restart(
    machine: Callable[..., Machine],
) -> None:
    hook = Hook()
    one = machine(sinks=(hook.url,))
    one.start()
    one.feed(300)
    one.send_fault()
    one.expect_incidents(1)  # the other sink is not held up
    eventually(lambda: f"webhook {hook.url}: Connection refused; 2 notices wait" in one.problems())
    one.stop()
    one.start()
    one.feed(100)
    one.send_fault()
    one.expect_incidents(2)
    hook.start()
    try:
        eventually(lambda: len(hook.received) == 4)
        eventually(lambda: hook.url not in one.problems())
    finally:
        hook.stop()
    assert hook.received == one.notices()


def test_a_broker_that_stops_and_starts_costs_no_event_and_no_alert(
    tmp_path: Path, machine: Callable[..., Machine]
) -> None:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    broker = Broker(tmp_path / "broker")
    place = f"mqtt://127.0.0.1:{broker.port}"
    one = machine(source=f"{place}/plant/7?client_id=edge", sinks=(f"{place}/alerts?client_id=edge-alerts",))
    payloads: list[bytes] = []
    listener = mqtt.Client(CallbackAPIVersion.VERSION2, "listener", clean_session=False)
    listener.on_connect = lambda client, *_: client.subscribe("alerts", qos=1)
    listener.on_message = lambda _c, _d, message: payloads.append(message.payload)
    listener.reconnect_delay_set(1, 1)
    listener.connect("127.0.0.1", broker.port)
    listener.loop_start()

    def publish(content: bytes) -> None:
        before = one.health()["events"]
        lines = content.splitlines()
        for line in lines:
            listener.publish("plant/7", line, qos=1).wait_for_publish(30)
        eventually(lambda: one.health()["events"] >= before + len(lines))

    try:
        one.start()
        eventually(lambda: not one.problems())
        publish(one.events(200))
        broker.stop()
        eventually(lambda: f"broker 127.0.0.1:{broker.port}: not connected" in one.problems())
        broker.start()
        eventually(lambda: not one.problems())
        eventually(listener.is_connected)
        publish(one.events(8, fault=True))
        publish(one.events(60))
        one.expect_incidents(1)
        eventually(lambda: len(payloads) == 2)
        assert [json.loads(notice) for notice in payloads] == one.notices()
    finally:
        listener.disconnect()
        listener.loop_stop()
        one.stop()
        broker.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_costs_no_alert(
    tmp_path: Path, small_disk: Path, processes: Processes, manifest: Path
) -> None:
    one = Machine(small_disk, processes, "edge", flags=FLAGS, manifest=manifest)
    one.alerts_file = small_disk / "edge-alerts.jsonl"
    one.start()
    one.feed(300)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(bytes(1 << 16))
        with pytest.raises(OSError):
            while True:
                file.write(b"x")
    one.feed(8, fault=True)
    one.feed(60)
    eventually(lambda: "No space left on device; 2 notices wait" in one.problems())
    filler.unlink()
    one.expect_incidents(1)
    eventually(lambda: not one.problems())


def test_a_corrupt_version_is_refused_and_the_one_in_use_continues(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.start()
    one.feed(300)
    content = VersionStore(one.state)._accepted()[0].read_bytes()
    VersionStore(one.state).offer(content[: len(content) // 2])
    eventually(lambda: "refused a version on trial" in one.problems())
    assert list((one.state / "refused").glob("damaged-*.txt"))
    one.send_fault()
    one.expect_incidents(1)
    assert one.health()["version"] == 8
    assert one.metric("version_refusals_total") == 1


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100], ids=["empty", "zeros"])
def test_truncated_state_files_cost_what_they_held_and_no_more(
    machine: Callable[..., Machine], damage: bytes
) -> None:
    one = machine()
    one.start()
    one.feed(300)
    one.stop()
    for name in ("source.json", "buffer.ring", "schema.json", "instance", "detector"):
        (one.state / name).write_bytes(damage)
    newest = max((one.state / "versions").iterdir())
    shutil.copy(newest, newest.with_name(newest.name.replace("000001-", "000002-")))
    newest.with_name(newest.name.replace("000001-", "000002-")).write_bytes(damage)
    one.start()
    one.feed(100)
    assert "buffer.ring" in one.problems()
    assert "000002-" in one.problems()
    one.send_fault()
    one.expect_incidents(1)


def test_a_clock_that_is_set_back_stops_nothing(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.start()
    one.feed(300)
    one.sent -= 250  # the stream's own clock
    one.feed(200)
    one.send_fault()
    one.expect_incidents(1)
    assert one.problems() == ""


def test_bad_events_are_counted_reported_and_cost_no_good_one(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.start()
    one.feed(300)
    good = json.loads(one.events(1))
    partial = ({"f1": [1]}, {"f1": "1.5"}, {"f1": None}, {"x": 1}, {"f0": float("nan")}, {"f0": float("inf")})
    bad = [b"not json", b'{"f0": "\xff"}', b"x" * (50 << 20), b"{}"]
    bad.append(json.dumps({**good, "f1": "49.8 %"}).encode())
    taken = [json.dumps({**good, **change}).encode() for change in partial]
    turned = dict(reversed(good.items()))
    one.send(b"\n".join([*bad, *taken, json.dumps(turned).encode()]) + b"\n")
    eventually(lambda: one.health()["events"] == 307)
    assert one.health()["refused"] == {
        "not_json": 1, "number_as_text": 1, "missing_feature": 1, "not_utf8": 1, "too_long": 1,
    }  # fmt: skip
    eventually(lambda: "events refused counts=" in one.log())
    one.send_fault()
    one.expect_incidents(1)


def test_an_endless_line_does_not_fill_the_memory(
    machine: Callable[..., Machine],
) -> None:
    one = machine()
    one.start()
    one.feed(300)
    process = psutil.Process(one.processes.pid(one.name))
    before = process.memory_info().rss
    one.send(b"x" * (200 << 20))
    eventually(lambda: one.health()["refused"] == {"too_long": 1})
    assert process.memory_info().rss - before < 20 << 20
    one.feed(100)
    one.send_fault()
    one.expect_incidents(1)


def test_rolling_back_takes_effect_at_once(machine: Callable[..., Machine], manifest: Path) -> None:
    one = machine()
    one.start()
    one.feed(300)
    VersionStore(one.state).offer(manifest.read_bytes())
    eventually(lambda: len(VersionStore(one.state)._accepted()) == 2)
    VersionStore(one.state).roll_back()
    eventually(lambda: one.health()["pinned"])
    one.send_fault()
    one.expect_incidents(1)


def test_this_machines_own_metrics_are_a_stream(tmp_path: Path, processes: Processes) -> None:
    one = Machine(tmp_path, processes, "self", flags=FLAGS, source="host:?interval_s=0.05")
    one.start()
    eventually(lambda: one.health()["events"] >= 5)
    assert one.health()["refused"] == {}
    assert one.problems() == ""


def test_a_trained_version_brings_the_features_that_a_stream_does_not_name(
    tmp_path: Path, processes: Processes, manifest: Path
) -> None:
    one = Machine(tmp_path, processes, "edge", flags=FLAGS)
    one.start()
    one.send(b"0.1,0.2,0.3,0.4\n")
    eventually(lambda: "the features are not known" in one.problems())
    VersionStore(one.state).offer(manifest.read_bytes())
    eventually(lambda: one.health()["features"])
    one.send(b"0.1,0.2,0.3,0.4\n" * 40)  # more than the warm-up
    eventually(lambda: one.health()["version"] == 8)
    eventually(lambda: one.health()["events"] >= 40)
    assert one.problems() == ""
