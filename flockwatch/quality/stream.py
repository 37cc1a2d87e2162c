"""Scores of one client's stream, training and test rows, and their replay through the live detector."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from client.data.partition import Partition
from client.data.recent_events import MAX_BATCH_EVENTS
from client.detection.detector import Detector
from client.detection.scorer import Scorer
from client.service.maintenance import DetectorMaintenance
from client.versions.trial_process import InlineTrial
from client.versions.version_store import VersionStore
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.sketch import ScoreSketch
from common.model.version_settings import VersionSettings
from common.protocol.alerts import Notice
from common.settings import Settings

Floats = NDArray[np.float32]

STEP = 64
"""Events between two maintenance ticks: a machine with an event every five minutes ticks after each one."""
_SCHEMA = Schema(("root_of_score",))


@dataclass(frozen=True, eq=False)
class StreamScores:
    """Scores of one client's stream; the higher, the less normal."""

    training: Floats
    """Shape (training rows,); NaN before the first whole window."""
    test: Floats
    """Shape (test rows,)."""
    normal: ScoreSketch
    """Scores of the held-out rows of all clients that the model was trained on."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Alerts and incidents of the live detector among the test events."""

    alerts: NDArray[np.bool_]
    """Whether each test event was an alert, shape (test rows,)."""
    thresholds: Floats
    """The threshold at each test event, shape (test rows,)."""
    incidents: list[range]
    """The test events of each incident, from its first alert to its last.

    One that began with a training event has a negative start, and one that has not ended reaches to the last
    test event.
    """


def score_stream(manifest: Manifest, partition: Partition) -> StreamScores:
    """Score a client's stream by a version, with the live detector's scorer.

    Args:
        manifest: The version, personalised by the client.
        partition: The client's rows.
    """
    scorer = Scorer(manifest)
    part = partition.aligned(manifest.schema)
    rows = np.concatenate([part.rows, part.test_rows])
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.concatenate(
            [scorer.score_many(rows[i : i + MAX_BATCH_EVENTS]) for i in range(0, len(rows), MAX_BATCH_EVENTS)]
        )
    return StreamScores(scores[: len(part.rows)], scores[len(part.rows) :], manifest.scores)


def replay_scores(stream: StreamScores, settings: Settings, interval_s: float) -> Replay:
    """Pass scores through the live detector and its maintenance, which sets the threshold.

    So the alerts of every method come from the same code as in production. The detector's version
    reconstructs every event as 0 and each event has one value, the square root of a score: the score of the
    detector, the squared error, is the given score.

    Args:
        stream: Scores of the training and test events; those of test events are finite and not negative.
        settings: Sections `threshold` and `live` count.
        interval_s: Time between two events.
    """
    settings = settings.with_values(threshold={"interval_s": interval_s})
    values = np.concatenate([stream.training, stream.test]).astype(np.float64)
    numbers = np.flatnonzero(np.isfinite(values))
    roots = np.sqrt(values[numbers]).tolist()
    lines = [
        msgspec.json.encode({"ts": interval_s * number, _SCHEMA.features[0]: root})
        for number, root in zip(numbers.tolist(), roots, strict=True)
    ]
    alerts = np.zeros(len(values), np.bool_)
    thresholds = np.full(len(values), np.nan, np.float32)
    notices: list[Notice] = []
    with tempfile.TemporaryDirectory(prefix="flockwatch-replay-") as name:
        store = VersionStore(Path(name))
        store.offer(_square_version(stream.normal, settings).pack())
        detector = Detector("replay", _SCHEMA, settings.data, settings.live)
        maintenance = DetectorMaintenance(detector, settings, Path(name), store, trial=InlineTrial)
        maintenance.tick(save=False)
        if detector.active is None:
            raise ValueError(f"no version was taken up: {maintenance.problems.messages()}")
        for start in range(0, len(lines), STEP):
            outcome = detector.step(lines[start : start + STEP], 0.0)
            block = numbers[start : start + STEP]
            alerts[block] = [verdict.anomaly for verdict in outcome.verdicts]
            thresholds[block] = detector.active.threshold
            notices += outcome.notices
            maintenance.tick(save=False)
        maintenance.stop()
    first = len(stream.training)
    incidents = _incidents(notices, len(values), interval_s)
    spans = [range(incident.start - first, incident.stop - first) for incident in incidents]
    return Replay(alerts[first:], thresholds[first:], [span for span in spans if span.stop > 0])


def _incidents(notices: Sequence[Notice], events: int, interval_s: float) -> list[range]:
    """Return the events of each incident, in the order in which they began.

    Args:
        notices: All notices of a stream whose event `n` has the time `n * interval_s`.
        events: Number of events; an incident that has not ended reaches to the last one.
        interval_s: Time between two events.
    """
    found: dict[str, range] = {}
    for notice in notices:
        start = round(notice.started / interval_s)
        if notice.kind == "incident_started":
            found[notice.id] = range(start, events)
        elif notice.kind == "incident_ended" and notice.ended is not None:
            found[notice.id] = range(start, round(notice.ended / interval_s) + 1)
    return list(found.values())


def _square_version(normal: ScoreSketch, settings: Settings) -> Manifest:
    """Return a version that scores an event by the square of its one value."""
    architecture = Architecture(features=1, window=1, hidden=(1,))
    nothing = {name: np.zeros(shape, np.float32) for name, shape in architecture.shapes.items()}
    plain = VersionSettings.of(settings.with_values(scaling={"by": "none", "clip": None}))
    one = Moments.of(np.zeros((1, 1), np.float32))
    return replace(Manifest(1, _SCHEMA, architecture, nothing, one, plain), scores=normal)
