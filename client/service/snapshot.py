"""The status of a detector process, composed from those of its parts that exist already."""

from __future__ import annotations

import time
from dataclasses import dataclass

from client.connectors.sources import Source
from client.data.streams.schema import SchemaResolver
from client.detection.detector import Detector
from client.maintenance.thread import DetectorMaintenance
from client.service.event_loop import EventLoop
from client.service.latency import LatencyHistogram
from client.service.notifier import Notifier
from client.service.status import Status, StreamStatus
from client.service.stream_watch import StreamWatch
from client.service.supervisor import TrainerSupervisor
from common.learning import Learning


@dataclass
class ProcessParts:
    """The parts of a detector process, None until they exist. The process sets them; any thread reads."""

    resolver: SchemaResolver
    supervisor: TrainerSupervisor | None
    """Runs the trainer; None: there is no trainer."""
    source: Source | None = None
    notifier: Notifier | None = None
    loop: EventLoop | None = None
    detector: Detector | None = None
    maintenance: DetectorMaintenance | None = None
    watch: StreamWatch | None = None


def snapshot(client: str, parts: ProcessParts) -> Status:
    """Return the status of a process. Any thread may call it.

    Args:
        client: The client's name.
        parts: The parts of the process.
    """
    detector, maintenance, supervisor = parts.detector, parts.maintenance, parts.supervisor
    loop = parts.loop
    active = detector.active if detector else None
    recent = detector.recent if detector else None
    score = float(recent.scores[recent.newest_slot]) if recent and recent.count else None
    return Status(
        client=client,
        version=active.manifest.version if active else None,
        pinned=maintenance is not None and maintenance.versions.pinned,
        threshold=active.threshold if active else None,
        score=score if score == score else None,
        events=recent.count if recent else 0,
        refused=dict(detector.refused) if detector else {},
        alerts=detector.alerts if detector else 0,
        incidents=detector.incidents.started if detector else 0,
        open_incidents=tuple(i.feature for i in detector.incidents.open) if detector else (),
        flapping=_flapping(detector),
        evidence=maintenance.tuning.evidence if maintenance and active else None,
        moved=tuple(sorted(maintenance.adaptation.regime.moves)) if maintenance else (),
        warm_up=_warm_up(maintenance),
        drifted=maintenance is not None and maintenance.tuning.drifted,
        swaps=maintenance.versions.swaps if maintenance else 0,
        refusals=maintenance.versions.refusals if maintenance else 0,
        trainer_restarts=supervisor.restarts if supervisor else 0,
        trainer_memory_bytes=supervisor.memory_bytes if supervisor else 0,
        buffered=len(maintenance.learned) if maintenance else 0,
        learning=maintenance.progress.learning if maintenance and maintenance.progress else None,
        since_turn_s=time.monotonic() - loop.last_turn if loop else 0.0,
        queues=parts.notifier.queues() if parts.notifier else (),
        problems=tuple(_problems(parts)),
        stream=_stream_status(parts),
        latency=loop.latency if loop else LatencyHistogram(),
    )


def _stream_status(parts: ProcessParts) -> StreamStatus:
    detector, columns = parts.detector, parts.resolver.columns
    if detector is None:
        return StreamStatus()
    ignored = {**(columns.ignored if columns is not None else {}), **detector.decoder.ignored}
    features, time_field = detector.schema.features, detector.decoder.time
    return StreamStatus(features, time_field, detector.recent.interval_s, ignored)


def _problems(parts: ProcessParts) -> list[str]:
    problems = parts.notifier.problems() if parts.notifier else []
    if parts.source is not None and parts.source.problem is not None:
        problems.append(parts.source.problem)
    if parts.supervisor is not None and parts.supervisor.problem is not None:
        problems.append(parts.supervisor.problem)
    if parts.maintenance is not None:
        problems.extend(parts.maintenance.problems.messages())
    if parts.watch is not None:
        problems.extend(parts.watch.problems())
    if parts.detector is None and parts.resolver.problem is not None:
        problems.append(parts.resolver.problem)
    return problems


def _flapping(detector: Detector | None) -> tuple[str, ...]:
    if detector is None or not detector.recent.count:
        return ()
    newest = detector.recent.times[detector.recent.newest_slot]
    return tuple(detector.incidents.flapping.features(float(newest)))


def _warm_up(maintenance: DetectorMaintenance | None) -> Learning | None:
    if maintenance is None or (wanted := maintenance.warm_up.wanted) is None:
        return None
    return Learning(maintenance.warm_up.events, wanted)
