"""Serves `/metrics` for Prometheus and `/healthz` for people and probes, beside the event loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from client.maintenance.evidence import Evidence
from client.service.http_server import HttpServer
from client.service.latency import LatencyHistogram
from common.learning import Learning

MIN_POWER, MAX_POWER = 10, 31
"""Powers of two, in nanoseconds, between which the latency histogram has its buckets: 1 us to 2 s."""

STUCK_S = 30.0
"""Seconds without a turn of the event loop after which `/healthz` fails."""


@dataclass(frozen=True)
class SinkQueue:
    """The queue of notices before one sink."""

    sink: str
    """Address without its password."""
    waiting: int
    delivered: int
    lost: int


@dataclass(frozen=True)
class StreamStatus:
    """The fields of the stream."""

    features: tuple[str, ...] = ()
    time: str | None = None
    """The field with the events' times; None: there is none, or it is not known yet."""
    interval_s: float | None = None
    """The usual seconds between two events."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """The reason why a field is not a feature, by its name."""


@dataclass(frozen=True)
class Status:
    """A snapshot of the detector process."""

    client: str
    version: int | None
    """The active model version."""
    pinned: bool
    """Whether an operator has rolled back to it."""
    threshold: float | None
    score: float | None
    """Score of the newest event."""
    events: int
    refused: dict[str, int]
    """Lines that are not events, by reason."""
    alerts: int
    incidents: int
    open_incidents: tuple[str, ...]
    """Leading feature of each open incident, the oldest first."""
    flapping: tuple[str, ...]
    """Features whose incidents come again and again, and are not reported."""
    evidence: Evidence | None
    """The evidence of the threshold: the time that this client's scores cover; None without a version."""
    moved: tuple[str, ...]
    """Features with a lasting change of level to which the detector has adapted."""
    warm_up: Learning | None
    """Progress towards the next adaptation of the fleet's version to this machine; None: none will follow."""
    drifted: bool
    swaps: int
    """Versions activated after a trial."""
    refusals: int
    """Versions refused after a trial."""
    trainer_restarts: int
    trainer_memory_bytes: int
    buffered: int
    """Events in the training buffer."""
    since_turn_s: float
    """Seconds since the last turn of the event loop."""
    learning: Learning | None = None
    """Progress towards training; None for a client that never trains, or does not know its features yet."""
    queues: tuple[SinkQueue, ...] = ()
    problems: tuple[str, ...] = ()
    stream: StreamStatus = field(default_factory=StreamStatus)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    @property
    def incident_open(self) -> bool:
        """Whether an incident is open."""
        return bool(self.open_incidents)


def health(status: Status) -> tuple[HTTPStatus, bytes]:
    """Return the response of `/healthz`.

    Its code is 503 only while the event loop is stuck: a restart would not help with other problems.
    """
    stuck = status.since_turn_s > STUCK_S
    state = "stuck" if stuck else "degraded" if status.problems else "ok"
    warm_up = status.warm_up
    p50, p99 = status.latency.quantile_s(0.5), status.latency.quantile_s(0.99)
    body = {
        "status": state,
        "problems": list(status.problems),
        "client": status.client,
        "version": status.version,
        "pinned": status.pinned,
        "learning": _learning(status.learning),
        "threshold": status.threshold,
        "score": status.score,
        "events": status.events,
        "refused": status.refused,
        "features": list(status.stream.features),
        "time": status.stream.time,
        "interval_s": status.stream.interval_s,
        "ignored": dict(status.stream.ignored),
        "alerts": status.alerts,
        "incidents": status.incidents,
        "incident_open": status.incident_open,
        "open_incidents": list(status.open_incidents),
        "flapping": list(status.flapping),
        "evidence": str(status.evidence) if status.evidence is not None else None,
        "provisional": status.evidence is not None and not status.evidence.sufficient,
        "adapted": list(status.moved),
        "warm_up": {"events": warm_up.rows, "wanted": warm_up.wanted} if warm_up is not None else None,
        "drifted": status.drifted,
        "latency_us": {"p50": p50 and p50 * 1e6, "p99": p99 and p99 * 1e6},
    }
    return (HTTPStatus.SERVICE_UNAVAILABLE if stuck else HTTPStatus.OK), json.dumps(body, indent=1).encode()


def _learning(learning: Learning | None) -> dict[str, object] | None:
    """Return the progress towards training as JSON values; None if there are enough events."""
    if learning is None or learning.done:
        return None
    left_s = learning.remaining_s
    return {
        "events": learning.rows,
        "wanted": learning.wanted,
        "remaining_s": None if left_s is None else round(left_s),
        "text": str(learning),
    }


def metrics(status: Status) -> Iterable[Metric]:
    """Yield the status as Prometheus metrics."""
    evidence = status.evidence
    counters = {
        "events": ("Events received, whether or not a model version scored them", status.events),
        "alerts": ("Events with a score above the threshold", status.alerts),
        "incidents": ("Incidents whose start was reported", status.incidents),
        "version_swaps": ("Model versions activated after a trial", status.swaps),
        "version_refusals": ("Model versions refused after a trial", status.refusals),
        "trainer_restarts": ("Restarts of the trainer process", status.trainer_restarts),
    }
    for name, (text, count) in counters.items():
        yield CounterMetricFamily(f"flockwatch_{name}", text, value=count)
    gauges = {
        "score": ("Score of the newest event", status.score),
        "threshold": ("Score above which an event is an anomaly", status.threshold),
        "version": ("Active model version", status.version),
        "version_pinned": ("1 while an operator has pinned the model version, else 0", float(status.pinned)),
        "incident_open": ("1 while an incident is open, else 0", float(status.incident_open)),
        "features_flapping": (
            "Features whose incidents are not reported, because they flap",
            len(status.flapping),
        ),
        "features_adapted": ("Features to whose lasting change the detector has adapted", len(status.moved)),
        "evidence_seconds": (
            "Time that the normal events cover from which the threshold follows, in seconds",
            evidence.has_s if evidence else None,
        ),
        "evidence_needed_seconds": (
            "Time that normal events have to cover for the budget, in seconds",
            evidence.wanted_s if evidence else None,
        ),
        "warm_up_events_missing": (
            "Events until a version of the fleet is first adapted to this machine",
            max(0, status.warm_up.wanted - status.warm_up.rows) if status.warm_up is not None else 0,
        ),
        "drifted": ("1 while the scores differ from those at calibration, else 0", float(status.drifted)),
        "problems": ("Current problems; /healthz lists them", len(status.problems)),
        "trainer_memory_bytes": (
            "Resident memory of the trainer process, in bytes",
            status.trainer_memory_bytes,
        ),
        "buffered_events": ("Normal events in the training buffer", status.buffered),
        "learning_wanted_events": (
            "Normal events of the stream that the client needs before it trains",
            status.learning.wanted if status.learning is not None else None,
        ),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"flockwatch_{name}", text, value=value)
    refused = CounterMetricFamily(
        "flockwatch_events_refused", "Lines of the stream refused as events, by reason", labels=["reason"]
    )
    for reason, count in status.refused.items():
        refused.add_metric([reason], count)
    yield refused
    waiting = GaugeMetricFamily(
        "flockwatch_notices_waiting", "Notices waiting for delivery to a sink", labels=["sink"]
    )
    delivered = CounterMetricFamily(
        "flockwatch_notices_delivered", "Notices delivered to a sink", labels=["sink"]
    )
    lost = CounterMetricFamily(
        "flockwatch_notices_lost", "Notices dropped because the queue of a sink was full", labels=["sink"]
    )
    for queue in status.queues:
        waiting.add_metric([queue.sink], queue.waiting)
        delivered.add_metric([queue.sink], queue.delivered)
        lost.add_metric([queue.sink], queue.lost)
    yield from (waiting, delivered, lost, _histogram(status.latency))


def _histogram(latency: LatencyHistogram) -> Metric:
    buckets = [(repr(2**power / 1e9), float(latency.below(power))) for power in range(MIN_POWER, MAX_POWER)]
    buckets.append(("+Inf", float(latency.events)))
    text = "Seconds from an event's arrival in the process to its verdict"
    family = HistogramMetricFamily("flockwatch_latency_seconds", text)
    family.add_metric([], buckets, latency.total_ns / 1e9)
    return family


class DetectorStatusServer(HttpServer):
    """Serves the status of a detector process over HTTP until it is closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        status: Returns the current status; it is called in other threads.
        hosts: Further names of this machine; see `HttpServer`.

    Raises:
        OSError: the address is in use, or not an address of this machine.
    """

    def __init__(self, host: str, port: int, status: Callable[[], Status], hosts: Iterable[str] = ()) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_StatusCollector(status))

        def healthz() -> tuple[HTTPStatus, str, bytes]:
            code, body = health(status())
            return code, "application/json", body

        def metrics_text() -> tuple[HTTPStatus, str, bytes]:
            return HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)

        super().__init__(host, port, {"/metrics": metrics_text, "/healthz": healthz}, hosts)


class _StatusCollector:
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Sequence[Metric]:
        return list(metrics(self._status()))
