"""`host:` on this machine: a quiet quarter of an hour, then a memory stress and a disk stress."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.watch import stress as stress_program
from benchmarks.watch.judging import REST, STARTS, leading_cause, learned
from benchmarks.watch.replay import HEALTH_TIMEOUT_S, gives_verdicts, read_notices
from client.buffers import training_buffer
from client.connectors.sources.host import HostSource
from common.processes.children import Processes
from common.processes.packages import python_module
from server.flower.superlink_process import flower_environment, free_port

VERDICT_LIMIT_S = 900.0
"""Time in which each client has to score its events."""
STRESS_S = 60.0
RECOVERY_S = 120.0
"""Time between two stresses, in which incidents end, and after the last one, in which it would be learned."""
MAX_MEMORY_BYTES = 6 << 30
MEMORY_SHARE = 0.4
"""Share of the available memory that the memory stress takes at most."""
DISK_BYTES = 256 << 20
"""Size of the file that the disk stress writes over and over."""
POLL_S = 0.2


@dataclass(frozen=True)
class Stress:
    """A stress of the machine, and the metric that it raises or lowers."""

    name: str
    prefix: str
    """A cause whose name begins with this names the right part of the machine."""
    metric: str
    """The metric by which the benchmark itself sees the stress, and looks for it in the training buffer."""

    def command(self, folder: Path, seconds: float) -> list[str]:
        """Return the command of the stress, bounded by what is free."""
        free = int(MEMORY_SHARE * psutil.virtual_memory().available)
        size = min(MAX_MEMORY_BYTES, free) if self.name == "memory" else DISK_BYTES
        return [
            sys.executable, stress_program.__file__, self.name, "--folder", str(folder),
            "--bytes", str(size), "--seconds", str(seconds),
        ]  # fmt: skip


STRESSES = (
    Stress("memory", "memory_", "memory_percent"),
    Stress("disk", "disk_write", "disk_write_bytes"),
)


@dataclass
class StressAnswer:
    """The notices of the clients about one stress."""

    alerted_s: float | None
    """Seconds from the start of the stress until the slowest client's notice; None if one sent none."""
    cause_first: bool
    """Whether every client named the right metric first."""
    learned: bool | None
    """Whether a client has values of the stress in its training buffer; None if that is not known."""


@dataclass
class HostResult:
    """The behaviour of the clients of one fleet on this machine."""

    clients: int
    first_verdict_s: float | None
    """Seconds from the start until the slowest client scored its events; None if one never did."""
    quiet_false: list[int] = field(default_factory=list)
    """Notices of each client in the quiet time."""
    causes: list[str] = field(default_factory=list)
    """First causes of the notices in the quiet time."""
    stresses: dict[str, StressAnswer] = field(default_factory=dict)


class Recorder:
    """Records the machine's metrics once a second, as the clients see them, until it is stopped."""

    def __init__(self) -> None:
        self._samples: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the recording."""
        self._stop.set()
        self._thread.join()

    def values(self, metric: str, begin_s: float, end_s: float) -> tuple[NDArray[np.float64], ...]:
        """Return the values of a metric between two times in seconds since 1970, and all others."""
        samples = list(self._samples)
        inside = np.array([begin_s <= sample["ts"] < end_s for sample in samples], np.bool_)
        values = np.array([sample[metric] for sample in samples])
        return values[inside], values[~inside]

    def _run(self) -> None:
        source = HostSource()
        while not self._stop.is_set():
            self._samples += [json.loads(line) for line in source.read(0.5)]


class HostFleet:
    """A server and clients with the source `host:`, all on this machine.

    Args:
        folder: Created, for state, notices and logs.
        clients: Number of clients.
        processes: Starts and ends them.
    """

    def __init__(self, folder: Path, clients: int, processes: Processes) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.names = [f"host-{number}" for number in range(1, clients + 1)]
        self._ports = {name: free_port() for name in self.names}
        port = free_port()
        server = ["server", "--port", str(port), "--state", str(folder / "server")]
        if clients == 1:
            server += ["--set", "federation.min_clients=1"]  # otherwise the server waits for a second client
        self._start(processes, "server", server)
        for name in self.names:
            self._start(
                processes, name,
                ["client", "--name", name, "--server", f"127.0.0.1:{port}", "--state", str(folder / name),
                 "--status", f"127.0.0.1:{self._ports[name]}", "--source", "host:",
                 "--sink", f"file:{self._notices(name)}"],
            )  # fmt: skip

    def gives_verdicts(self) -> bool:
        """Return whether every client scores its events."""
        return all(gives_verdicts(self._health(name)) for name in self.names)

    def notices(self, name: str) -> list[dict[str, Any]]:
        """Return the notices that a client's sink has written."""
        return read_notices(self._notices(name))

    def stored(self, name: str, metric: str) -> NDArray[np.float32]:
        """Return the values of a metric in a client's training buffer."""
        buffer = training_buffer.read_buffer(self.folder / name)
        if buffer is None:
            return np.empty(0, np.float32)
        features = json.loads((self.folder / name / "schema.json").read_text())
        return buffer.rows[:, features.index(metric)]

    @property
    def clients(self) -> list[str]:
        """The clients' processes."""
        return [self._process(name) for name in self.names]

    def _process(self, name: str) -> str:
        return f"{name} of {len(self.names)}"

    def _start(self, processes: Processes, name: str, arguments: list[str]) -> None:
        environment = flower_environment(self.folder / f"{name}-flower")
        command = [*python_module("flockwatch"), *arguments]
        processes.start(self._process(name), command, self.folder / f"{name}.log", environment)

    def _health(self, name: str) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            url = f"http://127.0.0.1:{self._ports[name]}/healthz"
            with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        return {}

    def _notices(self, name: str) -> Path:
        return self.folder / f"{name}-notices.jsonl"


def watch_host(folder: Path, sizes: Sequence[int], quiet_s: float) -> list[HostResult]:
    """Run fleets on this machine from an empty state folder, side by side, and stress the machine.

    Args:
        folder: An empty folder.
        sizes: Number of clients of each fleet.
        quiet_s: Length of the quiet time.

    Returns:
        The behaviour of each fleet.
    """
    recorder = Recorder()
    times: dict[str, tuple[float, float]] = {}
    with Processes(grace_s=30) as processes:
        fleets = [HostFleet(folder / str(size), size, processes) for size in sizes]
        results = [HostResult(size, None) for size in sizes]
        _await_verdicts(fleets, results)
        _say(f"first verdicts after {[r.first_verdict_s for r in results]} s, quiet for {quiet_s:.0f} s")
        quiet_from = time.time()
        time.sleep(quiet_s)
        for fleet, result in zip(fleets, results, strict=True):
            for name in fleet.names:
                asking = _asking(fleet.notices(name), quiet_from)
                result.quiet_false.append(len(asking))
                result.causes += [leading_cause(notice) or notice["kind"] for notice in asking]
        _say(f"notices in the quiet time: {[r.quiet_false for r in results]}")
        for stress in STRESSES:
            begin = time.time()
            answers = _stress(stress, fleets, folder, processes)
            times[stress.name] = begin, time.time()
            _say(f"{stress.name} stress: {answers}")
            for result, answer in zip(results, answers, strict=True):
                result.stresses[stress.name] = answer
            time.sleep(RECOVERY_S)
        processes.end([name for fleet in fleets for name in fleet.clients])
    recorder.stop()
    for stress in STRESSES:
        stressed, normal = recorder.values(stress.metric, *times[stress.name])
        for fleet, result in zip(fleets, results, strict=True):
            kept = [learned(fleet.stored(name, stress.metric), normal, stressed) for name in fleet.names]
            result.stresses[stress.name].learned = None if None in kept else any(kept)
    return results


def _await_verdicts(fleets: Sequence[HostFleet], results: Sequence[HostResult]) -> None:
    """Wait until every client of every fleet scores its events, at most `VERDICT_LIMIT_S`."""
    began = time.monotonic()
    while any(r.first_verdict_s is None for r in results) and time.monotonic() < began + VERDICT_LIMIT_S:
        for fleet, result in zip(fleets, results, strict=True):
            if result.first_verdict_s is None and fleet.gives_verdicts():
                result.first_verdict_s = round(time.monotonic() - began, 1)
        time.sleep(1)


def _stress(
    stress: Stress, fleets: Sequence[HostFleet], folder: Path, processes: Processes
) -> list[StressAnswer]:
    """Stress the machine for `STRESS_S`; note when each client's first notice came, and its first cause."""
    before = [{name: len(fleet.notices(name)) for name in fleet.names} for fleet in fleets]
    alerted: list[dict[str, tuple[float, str | None]]] = [{} for _ in fleets]
    began = time.monotonic()
    log, command = folder / f"{stress.name}.log", stress.command(folder, STRESS_S)
    processes.start(stress.name, command, log, flower_environment(folder / "stress"))
    while processes.exit_code(stress.name) is None:
        for fleet, counts, first in zip(fleets, before, alerted, strict=True):
            for name in fleet.names:
                if name not in first and (asking := _asking(fleet.notices(name)[counts[name] :], 0.0)):
                    first[name] = time.monotonic() - began, leading_cause(asking[0])
        time.sleep(POLL_S)
    failed = processes.exit_code(stress.name)
    processes.end([stress.name])
    if failed:
        raise RuntimeError(f"the {stress.name} stress failed; its log:\n{log.read_text(errors='replace')}")
    return [_answer(stress, first, len(fleet.names)) for fleet, first in zip(fleets, alerted, strict=True)]


def _answer(stress: Stress, alerted: dict[str, tuple[float, str | None]], clients: int) -> StressAnswer:
    """Return the answer of a fleet's clients: when the first notice of each came, and its first cause."""
    every = len(alerted) == clients
    return StressAnswer(
        alerted_s=round(max(seconds for seconds, _ in alerted.values()), 1) if every else None,
        cause_first=every and all((cause or "").startswith(stress.prefix) for _, cause in alerted.values()),
        learned=None,
    )


def _asking(notices: Sequence[dict[str, Any]], since_s: float) -> list[dict[str, Any]]:
    """Return the notices that ask for attention, from a time on."""
    kinds = (*STARTS, *REST)
    return [n for n in notices if n["kind"] in kinds and n["ended"] is None and n["started"] >= since_s]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
