"""The state of a federation as the `server` process shows it: `/status`, `/metrics` and `/healthz`.

Not by the ServerApp, which may be dead, or on its way up, when somebody asks: what it wrote last is read from
disk, and how old that is tells whether it still does its work.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from server.federation import status_file

STALE_S = 60.0
"""A ServerApp that has shown nothing for so long is stuck, and `/healthz` fails; a new start takes less."""

STATES = ("working", "late", "idle", "resting", "asked", "refused", "gone")


class ServerStatus:
    """What is known of a run from its files.

    Args:
        folder: The state folder.
        alive: Whether SuperLink runs.
    """

    def __init__(self, folder: Path, alive: Callable[[], bool]) -> None:
        self._path = folder / "fleet.json"
        self._alive = alive
        self._started = time.time()
        self.restarts = 0
        """Times the run was submitted again."""
        self.notices: Counter[str] = Counter()
        """Of alerts, that edges have posted since the process began, by kind."""

    def status(self) -> dict[str, Any]:
        """The body of `/status`."""
        shown = status_file.read(self._path) or {
            "clients": {},
            "version": None,
            "waiting": "",
            "stopped": None,
        }
        at = shown.get("at")
        return {
            "superlink": "up" if self._alive() else "down",
            "restarts": self.restarts,
            "silent_s": round(time.time() - (at if at is not None else self._started), 3),
            "notices": dict(self.notices),
            **shown,
        }

    def health(self) -> tuple[HTTPStatus, dict[str, Any]]:
        """The answer of `/healthz`: 503 where a restart may help."""
        status = self.status()
        silent_s = min(status["silent_s"], time.time() - self._started)
        sound = silent_s < STALE_S or status["stopped"] is not None
        named = ("superlink", "restarts", "silent_s", "version", "waiting", "stopped")
        body = {"status": "ok" if sound else "stuck", **{key: status.get(key) for key in named}}
        return HTTPStatus.OK if sound else HTTPStatus.SERVICE_UNAVAILABLE, body


def metrics(status: Mapping[str, Any]) -> Iterable[Metric]:
    """The status as Prometheus metrics."""
    clients: Mapping[str, Mapping[str, Any]] = status["clients"]
    gauges = {
        "version": ("Newest global version", status.get("version")),
        "error": ("Reconstruction error of the fleet, weighted by rows", status.get("error")),
        "updates_held": ("Admitted updates that wait to be folded", status.get("held")),
        "silent_seconds": ("Since the ServerApp last showed its state", status["silent_s"]),
        "superlink_up": ("1 while SuperLink runs", float(status["superlink"] == "up")),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"flockwatch_server_{name}", text, value=value)
    text = "Times the run was submitted again"
    yield CounterMetricFamily("flockwatch_server_restarts", text, value=status["restarts"])
    told = CounterMetricFamily("flockwatch_server_notices", "Of alerts, posted by edges", labels=["kind"])
    for kind, number in status["notices"].items():
        told.add_metric([kind], number)
    yield told
    count = Counter(client["state"] for client in clients.values())
    states = GaugeMetricFamily(
        "flockwatch_server_clients", "Clients by what they are doing", labels=["state"]
    )
    for state in STATES:
        states.add_metric([state], count[state])
    yield states
    yield from _by_client(clients)


def _by_client(clients: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    for key, text in {
        "error": "Newest reconstruction error",
        "behind": "Versions since the one that its newest update started from",
        "mean_s": "Mean seconds from task to update",
        "cosine": "Of its updates with the fleet's direction",
        "distance": "Of its scores from the fleet's (Kolmogorov and Smirnov)",
    }.items():
        name = key.removesuffix("_s") + ("_seconds" if key.endswith("_s") else "")
        gauge = GaugeMetricFamily(f"flockwatch_client_{name}", text, labels=["client"])
        for client, values in clients.items():
            if values.get(key) is not None:
                gauge.add_metric([client], values[key])
        yield gauge
    for key, text in {
        "admitted": "Updates folded",
        "clipped": "Of these, clipped",
        "dropped": "Too late",
    }.items():
        counter = CounterMetricFamily(f"flockwatch_client_updates_{key}", text, labels=["client"])
        for client, values in clients.items():
            counter.add_metric([client], values.get(key, 0))
        yield counter
    yield from _traffic(clients)
    refused = CounterMetricFamily(
        "flockwatch_client_updates_refused", "Replies that were not used", labels=["client", "reason"]
    )
    for client, values in clients.items():
        for reason, number in values.get("refused", {}).items():
            refused.add_metric([client, reason], number)
    yield refused


def _traffic(clients: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    moved = CounterMetricFamily(
        "flockwatch_client_http_bytes",
        "HTTP on the client's sockets, as it counts it",
        labels=["client", "direction"],
    )
    spent = CounterMetricFamily(
        "flockwatch_client_codec_seconds",
        "What encoding and decoding took the client",
        labels=["client", "work"],
    )
    for client, values in clients.items():
        for direction, key in {"up": "sent_bytes", "down": "received_bytes"}.items():
            moved.add_metric([client, direction], values.get(key, 0))
        for work, key in {"encode": "encode_s", "decode": "decode_s"}.items():
            spent.add_metric([client, work], values.get(key, 0.0))
    yield moved
    yield spent


class Scrape:
    """`/metrics` as text.

    Args:
        status: Of the run.
    """

    def __init__(self, status: ServerStatus) -> None:
        self._status = status
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The status at this moment, for Prometheus' library."""
        return metrics(self._status.status())

    def text(self) -> bytes:
        """In Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
