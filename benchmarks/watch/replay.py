"""Replay recordings to a fleet of real processes: one server, and one client for each recording.

A client follows a file to which its events are appended when they are due. Recorded time passes in three
steps, so that starting and training cost it no more than on a live machine with an event every five minutes:

1. The first events alone, from which the client chooses the features, until it has joined the server. A
   fleet's first version needs that, and loading TensorFlow takes longer here, with all trainers on two cores,
   than the minutes that are replayed.
2. The first `slow_events` events at `slow_rate`, while the client gets its first verdict and its first day.
3. The rest at `fast_rate`: 14 events per second are 70 minutes of recorded time in each second.

Training runs at the pace of the clock in all three. So a version that takes 20 s to train comes a day of
recorded time late in step 3, where a live machine waits 20 s: the replay is harder than a live machine.
"""

from __future__ import annotations

import json
import math
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watch.changes import Recording
from benchmarks.watch.judging import Timeline
from client.data.files.partitions import data_files, read_partition
from client.data.streams.schema import FIRST_EVENTS
from common.processes.children import Processes
from common.processes.packages import python_module
from common.settings import DataSettings
from server.federation import status_file
from server.flower.superlink_process import flower_environment, free_port

START_S = 1_704_067_200.0
"""Timestamp of each recording's first event: the recordings have none."""
INTERVAL_S = 300.0
"""Time between two rows, as the data's description says."""
JOIN_LIMIT_S = 180.0
"""A client that has not joined the server in this time gets its events nevertheless."""
END_LIMIT_S = 120.0
"""Time in which the clients have to read the last events."""
TURN_S = 0.1
LOOK_S = 0.5
"""Seconds between two readings of /healthz: at the slow rate, less than an event."""
HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Pace:
    """The schedule of events: slow at first, then fast."""

    slow_events: int = 432
    """A day and a half of five-minute events."""
    slow_rate: float = 1.5
    """Events per second."""
    fast_rate: float = 14.0

    def due(self, elapsed_s: float) -> int:
        """Return the number of events that are due some seconds after the first one."""
        slow_s = self.slow_events / self.slow_rate
        if elapsed_s <= slow_s:
            return int(elapsed_s * self.slow_rate)
        return self.slow_events + int((elapsed_s - slow_s) * self.fast_rate)


@dataclass(eq=False)
class Machine:
    """A client that is being replayed, and what its /healthz has said."""

    recording: Recording
    folder: Path
    late: bool = False
    """Whether it comes when the fleet has a version, and waits for that with its first events."""
    status_port: int = field(default_factory=free_port)
    started: bool = False
    released_at: float | None = None
    """The time when its events began to flow, on the monotonic clock."""
    written: int = 0
    first_verdict: int | None = None
    """Events at the first look at which the newest one had a verdict."""
    ready: int | None = None
    """Events at the first look at which its threshold was no longer provisional."""
    looks: list[tuple[int, bool]] = field(default_factory=list)
    """At each look: events read so far, and whether an incident was open."""
    health: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0

    @property
    def name(self) -> str:
        """The client's name."""
        return self.recording.name

    @property
    def state(self) -> Path:
        """The client's state folder."""
        return self.folder / self.name

    @property
    def timeline(self) -> Timeline:
        """The times and labels of its stream."""
        return Timeline(self.recording.labels, START_S, INTERVAL_S)

    @property
    def events(self) -> int:
        """Lines that the client has read, refused ones included."""
        return int(self.health.get("events", 0) + sum(self.health.get("refused", {}).values()))

    def command(self, server: str) -> list[str]:
        """Return the client's command."""
        return [
            *python_module("flockwatch"), "client", "--name", self.name, "--server", server,
            "--state", str(self.state), "--status", f"127.0.0.1:{self.status_port}",
            "--source", f"file:{self._stream}?follow=true", "--sink", f"file:{self._notices}?max_mb=100",
        ]  # fmt: skip

    def write(self, until: int) -> None:
        """Append the events up to number `until` to the stream."""
        until = min(until, len(self.recording.rows))
        if until > self.written:
            with self._stream.open("ab") as stream:
                stream.writelines(
                    self.recording.event(index, START_S + INTERVAL_S * index)
                    for index in range(self.written, until)
                )
            self.written = until

    def look(self) -> None:
        """Read /healthz, and note the first verdict."""
        with suppress(OSError, ValueError):  # it does not listen yet, or the machine is very busy
            url = f"http://127.0.0.1:{self.status_port}/healthz"
            with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S) as answer:
                self.health = json.load(answer)
            self.looks.append((self.events, bool(self.health["incident_open"])))
        if not gives_verdicts(self.health):
            return
        if self.first_verdict is None:
            self.first_verdict = self.events
        if self.ready is None and not self.health.get("provisional"):
            self.ready = self.events

    def notices(self) -> list[dict[str, Any]]:
        """Return the notices that its sink has written."""
        return read_notices(self._notices)

    def has_version(self) -> bool:
        """Return whether a version of the fleet has arrived at the client."""
        return any(self.state.glob("**/*.safetensors"))

    @property
    def _stream(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def _notices(self) -> Path:
        return self.folder / f"{self.name}-notices.jsonl"


def gives_verdicts(health: Mapping[str, Any]) -> bool:
    """Return whether /healthz says that the newest event has a score, and that there is a threshold."""
    score, threshold = health.get("score"), health.get("threshold")
    return score is not None and threshold is not None and math.isfinite(threshold)


def read_notices(path: Path) -> list[dict[str, Any]]:
    """Return the notices in a file of JSON lines, without a line that is not complete."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def recordings(folder: Path, rows: slice = slice(None)) -> list[Recording]:
    """Return each machine's training rows followed by its test rows, as they were recorded.

    The server has seen none of them. The labels are not in the stream: they only judge what it says.

    Args:
        folder: One data file for each machine.
        rows: Which rows of each machine, counted from its first test row, to cut the replay short.
    """
    result = []
    for path in data_files(folder):
        partition = read_partition(path, DataSettings())
        if partition.test_labels is None:
            raise ValueError(f"{path}: has no labels")
        first = len(partition.rows)
        labels = np.concatenate([np.zeros(first, np.bool_), partition.test_labels == 1])
        values = np.concatenate([partition.rows, partition.test_rows])
        begin = max(first + rows.start, 0) if rows.start is not None else 0
        end = min(first + rows.stop, len(values)) if rows.stop is not None else len(values)
        result.append(
            Recording(
                partition.name, partition.schema.features, values[begin:end], labels[begin:end], first - begin
            )
        )
    return result


def replay(machines: Sequence[Machine], folder: Path, pace: Pace) -> None:
    """Run a fleet from an empty state folder until all events are read, then end it.

    Args:
        machines: The clients; those that are `late` start when the server has made a version.
        folder: An empty folder for streams, state, notices and logs.
        pace: When events are due.

    Raises:
        RuntimeError: the server or a client ended.
    """
    port = free_port()
    state = folder / "server"
    with Processes(grace_s=30) as processes:
        command = [*python_module("flockwatch"), "server", "--port", str(port), "--state", str(state)]
        processes.start(
            "server", command, folder / "server.log", flower_environment(folder / "server-flower")
        )
        next_look = next_line = 0.0
        finished_at: float | None = None
        while finished_at is None or time.monotonic() < finished_at + END_LIMIT_S:
            now = time.monotonic()
            for machine in machines:
                if not machine.started and (not machine.late or _versions(state) > 0):
                    _start(machine, processes, f"127.0.0.1:{port}", now)
                if machine.started:
                    _feed(machine, state, pace, now)
            for name in processes.names:
                if processes.exit_code(name) is not None:
                    raise RuntimeError(f"{name} ended; its log:\n{processes.log_tail(name)}")
            if now >= next_look:
                next_look = now + LOOK_S
                for machine in machines:
                    if machine.started:
                        machine.look()
            if now >= next_line:
                next_line = now + 60
                print(_progress(machines, state), flush=True)
            if all(m.written == len(m.recording.rows) for m in machines):
                finished_at = finished_at or now
                if all(m.events >= m.written for m in machines):
                    break
            time.sleep(TURN_S)
        processes.end([machine.name for machine in machines])


def _start(machine: Machine, processes: Processes, server: str, now: float) -> None:
    machine.write(FIRST_EVENTS)
    environment = flower_environment(machine.folder / f"{machine.name}-flower")
    log = machine.folder / f"{machine.name}.log"
    processes.start(machine.name, machine.command(server), log, environment)
    machine.started, machine.started_at = True, now


def _feed(machine: Machine, state: Path, pace: Pace, now: float) -> None:
    """Write what is due; nothing beyond the first events before the machine has joined its fleet."""
    if machine.released_at is None:
        waited = now - machine.started_at >= JOIN_LIMIT_S
        joined = machine.has_version() if machine.late else machine.name in _joined(state)
        if not joined and not waited:
            return
        machine.released_at = now
    machine.write(FIRST_EVENTS + pace.due(now - machine.released_at))


def _joined(state: Path) -> set[str]:
    """Return the names of the clients that the server knows."""
    status = status_file.read(state / "fleet.json")
    return set(status["clients"]) if status else set()


def _versions(state: Path) -> int:
    """Return the number of the server's newest version; 0 while no client has trained one."""
    return max((int(path.stem[1:]) for path in (state / "versions").glob("v*.safetensors")), default=0)


def _progress(machines: Sequence[Machine], state: Path) -> str:
    written = sorted(m.written for m in machines)
    verdicts = sum(m.first_verdict is not None for m in machines)
    lag = max(m.written - m.events for m in machines)
    return (
        f"{time.strftime('%H:%M:%S')} events {written[0]} to {written[-1]}, {verdicts} of {len(machines)} "
        f"give verdicts, server version {_versions(state)}, {lag} events wait at most"
    )
