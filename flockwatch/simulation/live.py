"""The end of a demonstration: every machine scores its own stream, and one of them has a fault.

The machines are the clients that have just trained, each a detector and a trainer; their streams are normal
test rows, sent over TCP as a program on the machine would send them.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.data.partition import Partition
from common.config import ConfigError
from common.settings import Settings
from server.flower.superlink_process import free_port

EVENTS = 200
"""Of each stream, at most: as many as there are in a row without a labelled fault."""
RATE = 20.0
"""Events a second; their time stamps are further apart."""
INTERVAL_S = 60.0
"""From one time stamp to the next, where the settings do not say."""
FEWEST = 120
"""Events without which there is nothing to see."""
FAULT = (7 / 12, 8 / 12)
"""Where in its stream the fault shows."""
FAULT_STDS = 8.0
KNOWN = 500
"""Training rows that test rows are held against, at most."""
LOOK_EVERY = 5
"""Events between two looks at the machines."""
WITHIN_S = 180.0
HISTORY = 24
"""Scores in a picture of the last ones."""
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class MonitoredMachine:
    """One client with a live stream: where it is reached, and what it will be sent."""

    partition: Partition
    port: int
    """Of its stream."""
    status: int
    """Port of /healthz."""
    alerts: Path

    @classmethod
    def of(cls, partition: Partition, folder: Path) -> MonitoredMachine:
        """A machine on free ports, whose alerts go to a file in `folder`."""
        return cls(partition, free_port(), free_port(), folder / f"{partition.name}-alerts.jsonl")

    @property
    def flags(self) -> list[str]:
        """What makes its client a live one."""
        return [
            "--source", f"tcp://127.0.0.1:{self.port}", "--status", f"127.0.0.1:{self.status}",
            "--sink", f"file:{self.alerts}",
        ]  # fmt: skip

    def health(self) -> dict[str, Any]:
        """What its client says of itself."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status}/healthz", timeout=WITHIN_S) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def has_tried(self, version: int) -> bool:
        """Whether it works with a version, or with an earlier one because it has refused it."""
        try:
            health = self.health()
        except OSError:  # it does not listen yet
            return False
        refused = any(problem.startswith(f"refused version {version}:") for problem in health["problems"])
        return health["version"] == version or (health["version"] is not None and refused)

    def notices(self) -> list[dict[str, Any]]:
        """What its client has told until now, as far as it is written to the end."""
        if not self.alerts.exists():
            return []
        return [json.loads(line) for line in self.alerts.read_bytes().split(b"\n")[:-1]]


@dataclass
class _Shown:
    """What is on the screen of one machine."""

    machine: MonitoredMachine
    lines: list[bytes]
    connection: socket.socket
    health: dict[str, Any] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    told: int = 0


def show(
    machines: Sequence[MonitoredMachine], version: int, settings: Settings, console: Console
) -> dict[str, Any]:
    """Play the streams with a fault in the second one (or only one), and show what the clients make of it.

    Args:
        machines: Their clients run.
        version: The newest, which each client takes up, or refuses, before its stream begins.
        settings: What they run with.
        console: Where it is shown.

    Returns:
        JSON values for the report: the notices, and each client's latency in us.

    Raises:
        TimeoutError: a client does not answer, does not try the version, or does not tell of the fault.
    """
    faulty = machines[min(1, len(machines) - 1)]
    for machine in machines:
        _wait(
            partial(machine.has_tried, version),
            f"{machine.partition.name} did not take up version {version}",
        )
    shown = []
    for machine in machines:
        rows = stretch(machine.partition)
        if machine is faulty:
            _inject(rows)
        connection = socket.create_connection(("127.0.0.1", machine.port), WITHIN_S)
        shown.append(_Shown(machine, _lines(machine.partition, rows, settings), connection))
    feature = faulty.partition.schema.features[-1]
    console.print(
        f"\nLive: {len(machines)} machines score {RATE:.0f} events a second each; "
        f"soon, '{feature}' goes wrong on {faulty.partition.name}."
    )
    with Live(console=console, auto_refresh=False) as screen:
        started = time.monotonic()
        for number in range(max(len(one.lines) for one in shown)):
            for one in shown:
                if number < len(one.lines):
                    one.connection.sendall(one.lines[number])
            if number % LOOK_EVERY == 0:
                _look(shown, screen, console)
            time.sleep(max(0.0, started + (number + 1) / RATE - time.monotonic()))
        for one in shown:
            one.connection.close()
        _wait(lambda: _done(_look(shown, screen, console), faulty), "the fault was not told to its end")
    if not console.is_terminal:
        console.line()  # which Live leaves out there
    slowest = max(one.health["latency_us"]["p99"] for one in shown)
    typical = max(one.health["latency_us"]["p50"] for one in shown)
    console.print(
        f"Latency, from an event's arrival to its verdict: half within {typical:.0f} us, "
        f"99 of 100 within {slowest:.0f} us."
    )
    return {
        "fault": {"client": faulty.partition.name, "feature": feature},
        "notices": [notice for one in shown for notice in one.machine.notices()],
        "latency_us": {one.machine.partition.name: one.health["latency_us"] for one in shown},
    }


def stretch(partition: Partition) -> NDArray[np.float32]:
    """The run of normal test rows that lies nearest to the training rows, at most `EVENTS` of it.

    A machine that has learned for hours has not seen every hour of the day: rows of another hour would be
    alerts of their own.

    Raises:
        ConfigError: no run has as many rows as `FEWEST`.
    """
    labels = partition.test_labels
    normal = np.ones(len(partition.test_rows), np.bool_) if labels is None else labels == 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], normal.astype(np.int8), [0]]))).reshape(-1, 2)
    runs = [partition.test_rows[first : min(last, first + EVENTS)] for first, last in edges]
    runs = [run for run in runs if len(run) >= FEWEST]
    if not runs:
        raise ConfigError(
            f"'local.live' plays normal test rows, and {partition.name} never has {FEWEST} of them in a row"
        )
    known = partition.rows[:: -(-len(partition.rows) // KNOWN)]
    return min(runs, key=lambda run: _strangeness(run, known)).copy()


def _strangeness(rows: NDArray[np.float32], known: NDArray[np.float32]) -> float:
    """Mean distance of rows to the nearest of those known, in standard deviations; both (n, features)."""
    spread = known.std(axis=0) + 1e-9
    steps = (rows[:, None] - known[None]) / spread
    return float(np.sqrt(np.square(steps).sum(axis=-1)).min(axis=1).mean())


def _inject(rows: NDArray[np.float32]) -> None:
    begin, end = (round(share * len(rows)) for share in FAULT)
    rows[begin:end, -1] += FAULT_STDS * rows[:, -1].std()


def _lines(partition: Partition, rows: NDArray[np.float32], settings: Settings) -> list[bytes]:
    interval_s = settings.threshold.interval_s or INTERVAL_S
    start, names = time.time() - interval_s * len(rows), partition.schema.features
    return [
        msgspec.json.encode(
            {settings.data.timestamp: start + interval_s * i, **dict(zip(names, row, strict=True))}
        )
        + b"\n"
        for i, row in enumerate(rows.tolist())
    ]


def _look(shown: list[_Shown], screen: Live, console: Console) -> list[_Shown]:
    for one in shown:
        one.health = one.machine.health()
        if one.health["score"] is not None:
            one.scores = [*one.scores, one.health["score"]][-HISTORY:]
        notices = one.machine.notices()
        for notice in notices[one.told :]:
            _tell(notice, console)
        one.told = len(notices)
    screen.update(_table(shown), refresh=True)
    return shown


def _done(shown: list[_Shown], faulty: MonitoredMachine) -> bool:
    """Whether all is scored, and the faulty machine has told of the fault to its end."""
    scored = all(one.health["events"] >= len(one.lines) for one in shown)
    return scored and any(notice["kind"] == "incident_ended" for notice in faulty.notices())


def _tell(notice: dict[str, Any], console: Console) -> None:
    alert = notice["alert"]
    if notice["kind"] == "incident_ended":
        console.print(
            f"[bold green]{notice['client']}[/]: the incident is over: {notice['events']} events above the "
            f"threshold, score {alert['score']:.3g} at its peak"
        )
        return
    console.print(
        f"[bold red]{notice['client']}[/]: ALERT, score {alert['score']:.3g} above the threshold "
        f"{alert['threshold']:.3g} of version {alert['version']}, because of:"
    )
    for cause in alert["causes"][:3]:
        console.print(
            f"    {cause['feature']:<16} {cause['share']:>4.0%} of the error: "
            f"seen {cause['value']:.4g}, expected {cause['expected']:.4g}"
        )


def _table(shown: Sequence[_Shown]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("machine", "version", "events", "score", "threshold", "incidents", "p50 us", "p99 us"):
        table.add_column(name, justify="left" if name == "machine" else "right", no_wrap=True)
    table.add_column(f"scores ({BARS[-1]}: alert)", no_wrap=True, width=HISTORY)
    for one in shown:
        health, latency = one.health, one.health["latency_us"]
        table.add_row(
            health["client"], _cell(health["version"]), str(health["events"]), _cell(health["score"]),
            _cell(health["threshold"]), str(health["incidents"]),
            *(f"{latency[rank]:.0f}" if latency[rank] else "-" for rank in ("p50", "p99")),
            "".join(_bar(score, health["threshold"]) for score in one.scores),
            style="red" if health["incident_open"] else "",
        )  # fmt: skip
    return table


def _bar(score: float, threshold: float | None) -> str:
    return BARS[min(len(BARS) - 1, int((len(BARS) - 1) * score / threshold))] if threshold else BARS[0]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _wait(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {WITHIN_S:.0f} s")
        time.sleep(0.1)
