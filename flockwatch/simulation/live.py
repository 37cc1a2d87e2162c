"""The live part of `flockwatch local`: every client scores a stream of its own, and one of them has a fault.

The clients are those that have just trained, each a detector and a trainer. Their streams are normal test
rows, sent over TCP as a program on the machine would send them.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.data.partition import Partition
from common.config import ConfigError
from common.settings import Settings
from flockwatch.quality.vus import runs
from flockwatch.runs import shown
from flockwatch.simulation.player import Fault, Stream, play
from server.flower.superlink_process import free_port

MAX_EVENTS = 200
"""Events of each stream at most."""
MIN_EVENTS = 120
"""Events of a stream that are needed for a fault with normal events around it."""
RATE = 20.0
"""Events per second of each stream; their time stamps are further apart."""
INTERVAL_S = 60.0
"""Difference between consecutive time stamps, where the settings have none."""
FAULT = (7 / 12, 8 / 12)
"""Share of the stream at which the fault begins and ends."""
MAX_REFERENCE_ROWS = 500
"""Training rows that test rows are compared with."""
EVENTS_PER_LOOK = 5
"""Events between two updates of the screen."""
TIMEOUT_S = 180.0
HISTORY = 24
"""Scores shown of each client."""
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class MonitoredClient:
    """A client with a live stream: its addresses, and its data."""

    partition: Partition
    port: int
    """TCP port of its stream."""
    status_port: int
    """Port of /healthz."""
    alerts: Path

    @classmethod
    def on_free_ports(cls, partition: Partition, folder: Path) -> MonitoredClient:
        """Return a client whose alerts go to a file in `folder`."""
        return cls(partition, free_port(), free_port(), folder / f"{partition.name}-alerts.jsonl")

    @property
    def flags(self) -> list[str]:
        """Flags that make `flockwatch client` score a stream."""
        return [
            "--source", f"tcp://127.0.0.1:{self.port}", "--status", f"127.0.0.1:{self.status_port}",
            "--sink", f"file:{self.alerts}",
        ]  # fmt: skip

    def health(self) -> dict[str, Any]:
        """Return the client's /healthz.

        Raises:
            OSError: the client does not answer.
        """
        url = f"http://127.0.0.1:{self.status_port}/healthz"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            health: dict[str, Any] = json.load(answer)
        return health

    def has_tried(self, version: int) -> bool:
        """Return whether the client uses a version, or has refused it and uses an earlier one."""
        try:
            health = self.health()
        except OSError:  # it does not listen yet
            return False
        refused = any(problem.startswith(f"refused version {version}:") for problem in health["problems"])
        return health["version"] == version or (health["version"] is not None and refused)

    def notices(self) -> list[dict[str, Any]]:
        """Return the notices that the client has sent until now."""
        if not self.alerts.exists():
            return []
        complete_lines = self.alerts.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in complete_lines]


@dataclass
class _Row:
    """The state of one client on the screen."""

    client: MonitoredClient
    stream: Stream
    health: dict[str, Any] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    printed: int = 0
    """Number of notices already printed."""


def show(
    clients: Sequence[MonitoredClient], version: int, settings: Settings, console: Console
) -> dict[str, Any]:
    """Play the streams with a fault in the second one (or only one), and show scores and alerts.

    Args:
        clients: Their processes run.
        version: The newest version. Each client uses or refuses it before its stream begins.
        settings: The settings of the run.
        console: Where to print.

    Returns:
        JSON values for the report: the fault, the notices, and each client's latency in us.

    Raises:
        TimeoutError: a client does not answer, does not try the version, or does not report the fault.
    """
    for client in clients:
        _wait_until(
            partial(client.has_tried, version), f"{client.partition.name} did not use version {version}"
        )
    rows = [_Row(client, _stream(client.partition, settings)) for client in clients]
    faulty = rows[min(1, len(rows) - 1)]
    fault = _fault(rows.index(faulty), faulty.stream)
    feature = faulty.stream.features[fault.feature]
    console.print(
        f"\nLive: {len(rows)} clients score {RATE:.0f} events per second each. "
        f"Soon, {shown(faulty.stream.name)} has a fault in '{shown(feature)}'."
    )
    with Live(console=console, auto_refresh=False) as screen:
        with ExitStack() as closing:
            sockets = [
                closing.enter_context(socket.create_connection(("127.0.0.1", client.port), TIMEOUT_S))
                for client in clients
            ]
            for sent, _ in play(
                [row.stream for row in rows], [fault], RATE,
                lambda index, event: sockets[index].sendall(event + b"\n"),
            ):  # fmt: skip
                if sent % EVENTS_PER_LOOK == 1:
                    _update(rows, screen, console)

        def finished() -> bool:
            _update(rows, screen, console)
            return _all_scored(rows) and _fault_reported(faulty)

        _wait_until(finished, f"{faulty.stream.name} did not report the fault and its end")
    if not console.is_terminal:
        console.line()  # which Live leaves out there
    slowest = max(row.health["latency_us"]["p99"] for row in rows)
    typical = max(row.health["latency_us"]["p50"] for row in rows)
    console.print(
        f"Latency of the slowest client, from the arrival of an event to its verdict: {typical:.0f} us "
        f"(median), {slowest:.0f} us (99th percentile)."
    )
    return {
        "fault": {"client": faulty.stream.name, "feature": feature},
        "notices": [notice for row in rows for notice in row.client.notices()],
        "latency_us": {row.stream.name: row.health["latency_us"] for row in rows},
    }


def select_rows(partition: Partition) -> NDArray[np.float32]:
    """Return the consecutive normal test rows that are most like the training rows, at most `MAX_EVENTS`.

    A client that has trained on a few hours has not seen every hour of the day; rows of another hour would
    raise alerts of their own.

    Raises:
        ConfigError: there are never `MIN_EVENTS` normal rows in a row.
    """
    labels = partition.test_labels
    normal = np.ones(len(partition.test_rows), np.bool_) if labels is None else labels == 0
    candidates = [partition.test_rows[span][:MAX_EVENTS] for span in runs(normal)]
    candidates = [rows for rows in candidates if len(rows) >= MIN_EVENTS]
    if not candidates:
        raise ConfigError(
            f"'local.live' needs {MIN_EVENTS} consecutive test rows without a labelled fault; "
            f"{partition.name} has none"
        )
    reference = partition.rows[:: -(-len(partition.rows) // MAX_REFERENCE_ROWS)]
    return min(candidates, key=lambda rows: _mean_distance(rows, reference))


def _mean_distance(rows: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the mean distance of rows to the nearest reference row, in standard deviations.

    Both have the shape (rows, features).
    """
    stds = reference.std(axis=0) + 1e-9
    differences = (rows[:, None] - reference[None]) / stds
    return float(np.sqrt(np.square(differences).sum(axis=-1)).min(axis=1).mean())


def _stream(partition: Partition, settings: Settings) -> Stream:
    rows = select_rows(partition)
    interval_s = settings.threshold.interval_s or INTERVAL_S
    start_s = time.time() - interval_s * len(rows)
    return Stream(
        partition.name, partition.schema.features, rows, settings.data.time_name, start_s, interval_s
    )


def _fault(machine: int, stream: Stream) -> Fault:
    begin, end = (round(share * len(stream.rows)) for share in FAULT)
    return Fault(machine, len(stream.features) - 1, begin, end)


def _update(rows: list[_Row], screen: Live, console: Console) -> None:
    """Read the state of every client, print new notices, and redraw the table."""
    for row in rows:
        row.health = row.client.health()
        if row.health["score"] is not None:
            row.scores = [*row.scores, row.health["score"]][-HISTORY:]
        notices = row.client.notices()
        for notice in notices[row.printed :]:
            _print_notice(notice, console)
        row.printed = len(notices)
    screen.update(_table(rows), refresh=True)


def _all_scored(rows: list[_Row]) -> bool:
    return all(row.health["events"] >= len(row.stream.rows) for row in rows)


def _fault_reported(faulty: _Row) -> bool:
    return any(notice["kind"] == "incident_ended" for notice in faulty.client.notices())


def _print_notice(notice: dict[str, Any], console: Console) -> None:
    alert = notice["alert"]
    if notice["kind"] not in ("incident_started", "incident_ended"):
        console.print(f"[bold yellow]{shown(notice['client'])}[/]: {shown(notice['text'] or notice['kind'])}")
        return
    if notice["kind"] == "incident_ended":
        console.print(
            f"[bold green]{shown(notice['client'])}[/]: the incident is over: {notice['events']} events "
            f"above the threshold, highest score {alert['score']:.3g}"
        )
        return
    console.print(
        f"[bold red]{shown(notice['client'])}[/]: ALERT, score {alert['score']:.3g} above the threshold "
        f"{alert['threshold']:.3g} of model version {alert['version']}, because of:"
    )
    for cause in alert["causes"][:3]:
        console.print(
            f"    {shown(cause['feature']):<16} {cause['share']:>4.0%} of the error: "
            f"measured {cause['value']:.4g}, expected {cause['expected']:.4g}"
        )


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("client", "version", "events", "score", "threshold", "incidents", "p50 us", "p99 us"):
        table.add_column(name, justify="left" if name == "client" else "right", no_wrap=True)
    table.add_column(f"scores ({BARS[-1]}: alert)", no_wrap=True, width=HISTORY)
    for row in rows:
        health, latency = row.health, row.health["latency_us"]
        table.add_row(
            shown(health["client"]), _cell(health["version"]), str(health["events"]), _cell(health["score"]),
            _cell(health["threshold"]), str(health["incidents"]),
            *(f"{latency[rank]:.0f}" if latency[rank] else "-" for rank in ("p50", "p99")),
            "".join(_bar(score, health["threshold"]) for score in row.scores),
            style="red" if health["incident_open"] else "",
        )  # fmt: skip
    return table


def _bar(score: float, threshold: float | None) -> str:
    return BARS[min(len(BARS) - 1, int((len(BARS) - 1) * score / threshold))] if threshold else BARS[0]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _wait_until(condition: Callable[[], bool], failure: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not within `TIMEOUT_S`; the message begins with `failure`.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{failure} within {TIMEOUT_S:.0f} s")
        time.sleep(0.1)
