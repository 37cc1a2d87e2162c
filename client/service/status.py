"""`/metrics` for Prometheus and `/healthz` for people and probes, served beside the live loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from client.service.http_server import HttpServer

SHORTEST, LONGEST = 10, 31
"""Powers of two, in nanoseconds, that bound the latency histogram: 1 us to 2 s."""


class Latency:
    """A histogram of nanoseconds from an event's arrival in this process to its verdict."""

    def __init__(self) -> None:
        self.counts = [0] * (4 * 65)
        """Events by time: four steps from each power of two to the next."""
        self.total_ns = 0

    def add(self, ns: int, events: int) -> None:
        """Take so many events that were done after `ns`."""
        power = ns.bit_length()
        self.counts[4 * power + ((ns << 3 >> power) & 3)] += events
        self.total_ns += ns * events

    def under(self, power: int) -> int:
        """Events that took less than 2 ** power nanoseconds."""
        return sum(self.counts[: 4 * (power + 1)])

    def quantile_s(self, rank: float) -> float | None:
        """An upper bound of the latency of this share of the events; None without events."""
        wanted, seen = rank * sum(self.counts), 0
        for step, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                power, quarter = divmod(step, 4)
                return (5 + quarter) * 2.0 ** (power - 3) / 1e9
        return None


@dataclass(frozen=True)
class Queue:
    """A sink's, at one moment."""

    sink: str
    waiting: int
    delivered: int
    lost: int


@dataclass(frozen=True)
class Status:
    """What a client's live half is doing, at one moment."""

    client: str
    version: int | None
    pinned: bool
    threshold: float | None
    score: float | None
    events: int
    refused: dict[str, int]
    alerts: int
    incidents: int
    incident_open: bool
    drifted: bool
    swaps: int
    refusals: int
    trainer_restarts: int
    trainer_memory_bytes: int
    buffered: int
    silent_s: float
    """Since the loop last turned."""
    queues: tuple[Queue, ...] = ()
    problems: tuple[str, ...] = ()
    latency: Latency = field(default_factory=Latency)


STUCK_S = 30.0
"""A loop that has not turned for so long is stuck, and `/healthz` fails."""


def health(status: Status) -> tuple[HTTPStatus, bytes]:
    """The answer of `/healthz`: 503 only where the loop is stuck, for a restart may help there."""
    stuck = status.silent_s > STUCK_S
    state = "stuck" if stuck else "degraded" if status.problems else "ok"
    p50, p99 = status.latency.quantile_s(0.5), status.latency.quantile_s(0.99)
    body = {
        "status": state,
        "problems": list(status.problems),
        "client": status.client,
        "version": status.version,
        "pinned": status.pinned,
        "threshold": status.threshold,
        "score": status.score,
        "events": status.events,
        "refused": status.refused,
        "alerts": status.alerts,
        "incidents": status.incidents,
        "incident_open": status.incident_open,
        "drifted": status.drifted,
        "latency_us": {"p50": p50 and p50 * 1e6, "p99": p99 and p99 * 1e6},
    }
    return (HTTPStatus.SERVICE_UNAVAILABLE if stuck else HTTPStatus.OK), json.dumps(body, indent=1).encode()


def metrics(status: Status) -> Iterable[Metric]:
    """The status as Prometheus metrics."""
    counters = {
        "events": ("Events scored, or kept while there was no version", status.events),
        "alerts": ("Events above the threshold", status.alerts),
        "incidents": ("Incidents that began", status.incidents),
        "version_swaps": ("Versions taken from the federation", status.swaps),
        "version_refusals": ("Versions refused after a trial", status.refusals),
        "trainer_restarts": ("Times the trainer was started again", status.trainer_restarts),
    }
    for name, (text, count) in counters.items():
        yield CounterMetricFamily(f"flockwatch_{name}", text, value=count)
    gauges = {
        "score": ("Score of the newest event", status.score),
        "threshold": ("Score above which an event is an anomaly", status.threshold),
        "version": ("Version at work", status.version),
        "version_pinned": ("1 after a rollback", float(status.pinned)),
        "incident_open": ("1 while an incident goes on", float(status.incident_open)),
        "drifted": ("1 while the stream does not look as it did", float(status.drifted)),
        "problems": ("Things that are wrong now; /healthz names them", len(status.problems)),
        "trainer_memory_bytes": ("Resident memory of the trainer", status.trainer_memory_bytes),
        "buffered_events": ("Normal events kept to train on", status.buffered),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"flockwatch_{name}", text, value=value)
    refused = CounterMetricFamily("flockwatch_events_refused", "Lines that were no events", labels=["reason"])
    for reason, count in status.refused.items():
        refused.add_metric([reason], count)
    yield refused
    waiting = GaugeMetricFamily("flockwatch_notices_waiting", "Notices not yet delivered", labels=["sink"])
    delivered = CounterMetricFamily("flockwatch_notices_delivered", "Notices delivered", labels=["sink"])
    lost = CounterMetricFamily(
        "flockwatch_notices_lost", "Notices dropped from a full spool", labels=["sink"]
    )
    for queue in status.queues:
        waiting.add_metric([queue.sink], queue.waiting)
        delivered.add_metric([queue.sink], queue.delivered)
        lost.add_metric([queue.sink], queue.lost)
    yield from (waiting, delivered, lost, _histogram(status.latency))


def _histogram(latency: Latency) -> Metric:
    buckets = [(repr(2**power / 1e9), float(latency.under(power))) for power in range(SHORTEST, LONGEST)]
    buckets.append(("+Inf", float(sum(latency.counts))))
    text = "From an event's arrival in the process to its verdict"
    found = HistogramMetricFamily("flockwatch_latency_seconds", text)
    found.add_metric([], buckets, latency.total_ns / 1e9)
    return found


class DetectorStatusServer(HttpServer):
    """Serves a status over HTTP until closed.

    Args:
        host: To listen on.
        port: 0: any free one.
        status: Gives the status of now; called in other threads.

    Raises:
        OSError: the address is in use, or not this machine's.
    """

    def __init__(self, host: str, port: int, status: Callable[[], Status]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(status))

        def healthz() -> tuple[HTTPStatus, str, bytes]:
            code, body = health(status())
            return code, "application/json", body

        def scraped() -> tuple[HTTPStatus, str, bytes]:
            return HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)

        super().__init__(host, port, {"/metrics": scraped, "/healthz": healthz})


class _Collector:
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Sequence[Metric]:
        return list(metrics(self._status()))
