"""Clients with live streams for the scenario tests: a stream over TCP, a detector and a trainer."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from common.processes.children import Processes
from common.processes.packages import python_module
from server.flower.superlink_process import flower_environment, free_port
from tests.scenarios.fleet import Federation
from tests.waiting import PATIENCE_S, eventually

MIX = np.random.default_rng(5).normal(size=(2, 4))


class Machine:
    """A client with a live stream, to which the test sends events.

    Args:
        folder: Where its state, alerts and log are stored.
        processes: Starts and ends its process.
        name: The client's name.
        server: Address of the server.
        sinks: Sinks besides the file of alerts.
        flags: Additional flags.
        source: Its source, in place of TCP.
        manifest: A version; with it, `flockwatch detect` is started in place of `flockwatch client`.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        name: str,
        server: str = "127.0.0.1:1",
        sinks: tuple[str, ...] = (),
        flags: tuple[str, ...] = (),
        source: str | None = None,
        manifest: Path | None = None,
    ) -> None:
        self.folder, self.processes, self.name = folder, processes, name
        self.state = folder / name
        self.alerts_file = folder / f"{name}-alerts.jsonl"
        self._port, self._status = free_port(), free_port()
        self._rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.sent = 0
        self._arguments = [
            "--name", name, "--state", str(self.state), "--status", f"127.0.0.1:{self._status}",
            "--source", source or f"tcp://127.0.0.1:{self._port}",
            *(flag for sink in (f"file:{self.alerts_file}", *sinks) for flag in ("--sink", sink)),
            *flags,
        ]  # fmt: skip
        if manifest is None:
            self._arguments = ["client", "--server", server, *self._arguments]
        else:
            self._arguments = ["detect", "--manifest", str(manifest), *self._arguments]

    def start(self) -> None:
        """Start the client, and wait until it serves its status."""
        environment = flower_environment(self.folder / f"{self.name}-flower")
        command = [*python_module("flockwatch"), *self._arguments]
        self.processes.start(self.name, command, self.folder / f"{self.name}.log", environment)
        eventually(self.up)

    def stop(self) -> None:
        self.processes.end([self.name])

    def kill(self) -> None:
        """Kill the client, as a power failure would."""
        os.kill(self.processes.pid(self.name), signal.SIGKILL)
        eventually(lambda: self.processes.exit_code(self.name) is not None)
        self.processes.end([self.name])

    def up(self) -> bool:
        try:
            self.health()
        except OSError:
            return False
        return True

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._status}/healthz", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._status}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        samples = (line.split() for line in text.splitlines())
        return next(float(parts[1]) for parts in samples if parts[0] == f"flockwatch_{name}")

    def events(self, count: int, fault: bool = False) -> bytes:
        """Return normal events of correlated features, a minute apart, or events with a fault.

        Their values are bounded, so that no normal event is a false alert.
        """
        causes, noise = self._rng.uniform(-1, 1, (count, 2)), self._rng.uniform(-0.1, 0.1, (count, 4))
        rows = causes @ MIX + noise
        if fault:
            rows[:, 2] += 200
        content = b""
        for row in rows.tolist():
            event = {"ts": 1e9 + 60 * self.sent, **{f"f{i}": value for i, value in enumerate(row)}}
            content += json.dumps(event).encode() + b"\n"
            self.sent += 1
        return content

    def send(self, content: bytes) -> None:
        """Send bytes over a new connection."""
        with eventually(self._connect) as connection:
            connection.sendall(content)

    def feed(self, count: int, fault: bool = False) -> None:
        """Send events, and wait until they are scored, or stored if there is no version yet."""
        before = self.health()["events"]
        self.send(self.events(count, fault))
        eventually(lambda: self.health()["events"] == before + count)

    def send_fault(self) -> None:
        """Send events with a fault, and normal events after them."""
        self.feed(8, fault=True)
        self.feed(60)

    def notices(self) -> list[dict[str, Any]]:
        """Return the notices in the file of alerts."""
        if not self.alerts_file.exists():
            return []
        return [json.loads(line) for line in self.alerts_file.read_bytes().split(b"\n")[:-1]]

    def expect_incidents(self, incidents: int) -> None:
        """Wait for the start and the end of a number of incidents led by `f2`; there must be no others."""
        eventually(lambda: len(self.notices()) >= 2 * incidents)
        notices = self.notices()
        assert [n["kind"] for n in notices] == ["incident_started", "incident_ended"] * incidents
        assert len({n["id"] for n in notices}) == incidents
        assert {n["alert"]["causes"][0]["feature"] for n in notices} == {"f2"}

    def problems(self) -> str:
        return "; ".join(self.health()["problems"])

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self._port), 5)
        except OSError:
            return None


def train_together(federation: Federation, machines: list[Machine], rows: int = 800) -> None:
    """Send events to clients, and wait until they have trained together and use the last version."""
    for machine in machines:
        machine.start()
        machine.feed(rows)
    eventually(lambda: federation.processes.exit_code("server") is not None)
    assert federation.processes.exit_code("server") == 0, federation.log("server")
    newest = federation.version()
    for machine in machines:
        eventually(lambda m=machine: m.health()["version"] == newest)
