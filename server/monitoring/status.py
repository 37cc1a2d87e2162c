"""The status of a federation for `/status`, `/metrics` and `/healthz`.

The server process reads it from the status file, since the ServerApp may be dead or starting. The age of the
file shows whether the ServerApp works.
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
"""If the status file is older, the ServerApp is stuck and `/healthz` fails; a restart takes less time."""

CLIENT_STATES = ("working", "late", "idle", "resting", "learning", "asked", "refused", "enrolled", "gone")


class ServerStatus:
    """The status of a run.

    Args:
        folder: The state folder.
        alive: Returns whether SuperLink runs.
        clock: Returns seconds that never go back.
    """

    def __init__(
        self, folder: Path, alive: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = folder / "fleet.json"
        self._alive = alive
        self._clock, self._started = clock, clock()
        self._seen: tuple[float | None, float, float] = None, self._started, self._started
        """The time in the status file at the last look; when, by `clock`, it was written; and the look."""
        self.trouble: dict[str, str] = {}
        """Files that could not be read at the start, and the reason."""
        self.restarts = 0
        """Number of times that the run was submitted again."""
        self.notices: Counter[str] = Counter()
        """Notices received since the process started, by kind."""

    def status(self) -> dict[str, Any]:
        """Return the content of `/status`."""
        run_status = status_file.read(self._path) or {"clients": {}}
        trouble = run_status.get("trouble")
        return {
            "version": None,
            "waiting": "",
            "stopped": None,
            "superlink": "up" if self._alive() else "down",
            "restarts": self.restarts,
            "silent_s": round(self._silent_s(run_status.get("at")), 3),
            "notices": dict(self.notices),
            **run_status,
            "trouble": {**self.trouble, **(trouble if isinstance(trouble, dict) else {})},
        }

    def health(self) -> tuple[HTTPStatus, dict[str, Any]]:
        """Return status and content of `/healthz`: 503 if the ServerApp is stuck.

        `degraded` means that the federation continues, but something cannot be written or read (`trouble`).
        """
        status = self.status()
        silent_s = min(status["silent_s"], self._clock() - self._started)
        healthy = silent_s < STALE_S or status["stopped"] is not None
        keys = ("superlink", "restarts", "silent_s", "version", "waiting", "stopped")
        trouble = status["trouble"]
        word = ("degraded" if trouble else "ok") if healthy else "stuck"
        body = {"status": word, **{key: status.get(key) for key in keys}, "trouble": trouble}
        return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, body

    def _silent_s(self, at: float | None) -> float:
        """Return the seconds since the status file was written, also if the wall clock was set meanwhile.

        Args:
            at: The time in the file, in seconds since 1970; None if there is none.
        """
        now, (before, written, looked) = self._clock(), self._seen
        if at is not None and at != before:
            age_s = max(0.0, time.time() - at)
            written = now - (age_s if before is None else min(age_s, now - looked))
        self._seen = at, written, now
        return now - written


def metrics(status: Mapping[str, Any]) -> Iterable[Metric]:
    """Return the status as Prometheus metrics."""
    clients: Mapping[str, Mapping[str, Any]] = status["clients"]
    gauges = {
        "version": ("Newest model version", status.get("version")),
        "error": (
            "Mean reconstruction error on held-out rows, weighted by rows",
            status.get("error"),
        ),
        "updates_held": ("Admitted updates that wait for aggregation", status.get("held")),
        "silent_seconds": ("Seconds since the ServerApp last wrote its status", status["silent_s"]),
        "superlink_up": ("1 if SuperLink is running, else 0", float(status["superlink"] == "up")),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"flockwatch_server_{name}", text, value=value)
    text = "Restarts of the run after the ServerApp or SuperLink died"
    yield CounterMetricFamily("flockwatch_server_restarts", text, value=status["restarts"])
    text = "Notices of incidents received from clients, by kind"
    notices = CounterMetricFamily("flockwatch_server_notices", text, labels=["kind"])
    for kind, number in status["notices"].items():
        notices.add_metric([kind], number)
    yield notices
    count = Counter(client["state"] for client in clients.values())
    states = GaugeMetricFamily("flockwatch_server_clients", "Clients by state", labels=["state"])
    for state in CLIENT_STATES:
        states.add_metric([state], count[state])
    yield states
    yield from _client_metrics(clients)


def _client_metrics(clients: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    for key, text in {
        "error": "Newest reconstruction error of the client on its held-out rows",
        "behind": "Number of model versions made since the version that the client last replied about",
        "mean_s": "Mean time from a task to its update, in seconds",
        "cosine": "Smoothed cosine of the client's updates with the fleet's mean direction, -1 to 1",
        "distance": "Kolmogorov-Smirnov distance of the client's scores from the fleet's, 0 to 1",
    }.items():
        name = key.removesuffix("_s") + ("_seconds" if key.endswith("_s") else "")
        gauge = GaugeMetricFamily(f"flockwatch_client_{name}", text, labels=["client"])
        for client, values in clients.items():
            if values.get(key) is not None:
                gauge.add_metric([client], values[key])
        yield gauge
    for key, text in {
        "admitted": "Updates aggregated",
        "clipped": "Aggregated updates that the norm gate clipped",
        "dropped": "Updates dropped as stale, or because their round failed",
    }.items():
        counter = CounterMetricFamily(f"flockwatch_client_updates_{key}", text, labels=["client"])
        for client, values in clients.items():
            counter.add_metric([client], values.get(key, 0))
        yield counter
    yield from _traffic_metrics(clients)
    refused = CounterMetricFamily(
        "flockwatch_client_updates_refused",
        "Replies rejected, by reason",
        labels=["client", "reason"],
    )
    for client, values in clients.items():
        for reason, number in values.get("refused", {}).items():
            refused.add_metric([client, reason], number)
    yield refused


def _traffic_metrics(clients: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    http_bytes = CounterMetricFamily(
        "flockwatch_client_http_bytes",
        "HTTP bytes on the client's sockets, as the client reports them",
        labels=["client", "direction"],
    )
    codec_seconds = CounterMetricFamily(
        "flockwatch_client_codec_seconds",
        "Time in which the client encoded and decoded weights, in seconds",
        labels=["client", "work"],
    )
    for client, values in clients.items():
        for direction, key in {"up": "sent_bytes", "down": "received_bytes"}.items():
            http_bytes.add_metric([client, direction], values.get(key, 0))
        for work, key in {"encode": "encode_s", "decode": "decode_s"}.items():
            codec_seconds.add_metric([client, work], values.get(key, 0.0))
    yield http_bytes
    yield codec_seconds


class MetricsCollector:
    """Writes `/metrics` in Prometheus' text format.

    Args:
        status: The status of the run.
    """

    def __init__(self, status: ServerStatus) -> None:
        self._status = status
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the current metrics; called by the Prometheus client library."""
        return metrics(self._status.status())

    def text(self) -> bytes:
        """Return the current metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
