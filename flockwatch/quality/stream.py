"""Scores of one client's stream, training and test rows, and their replay through the live detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.data.partition import Partition
from client.detection.scorer import Scorer
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.alerts import END_KINDS, OPEN_KINDS, Notice
from common.settings import Settings
from flockwatch.replay import ASSUMED_INTERVAL_S, replayed_detector

Floats = NDArray[np.float32]

STEP = 64
"""Events between two maintenance ticks: a machine with an event every five minutes ticks after each one."""


@dataclass(frozen=True, eq=False)
class StreamScores:
    """Scores of one client's stream; the higher, the less normal."""

    training: Floats
    """Shape (training rows,); NaN before the first whole window."""
    test: Floats
    """Shape (test rows,)."""
    normal: ScoreHistogram
    """Scores of the held-out rows of all clients that the model was trained on."""
    distances: Floats | None = None
    """How far each value of an event is from its usual one, which divides the event's score among features.

    Shape (training and test rows, features), NaN for a missing value. None: scores have one cause.
    """


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


def replay_rows(
    manifest: Manifest, partition: Partition, settings: Settings, interval_s: float | None
) -> Replay:
    """Pass a client's rows through the live detector, training rows first.

    Args:
        manifest: The version, personalised by the client.
        partition: The client's rows.
        settings: Sections `data`, `threshold` and `live` count.
        interval_s: Time between two rows; None: it is not known.
    """
    part = partition.aligned(manifest.schema)
    return _replay(
        manifest, np.concatenate([part.rows, part.test_rows]), len(part.rows), settings, interval_s
    )


def replay_scores(stream: StreamScores, settings: Settings, interval_s: float | None) -> Replay:
    """Pass scores through the live detector, whose maintenance keeps the threshold.

    So the incidents of every method come from the same code as in production. The detector's version
    reconstructs every event as 0, and the squares of an event's values have the given score as their mean:
    the score of the detector, the mean squared error, is this score. With `distances` the squares are in
    proportion to those of the distances, so that incidents have causes, as in production.

    Args:
        stream: Scores of the training and test events, not negative; NaN for events without a score.
        settings: Sections `data`, `threshold` and `live` count.
        interval_s: Time between two events; None: it is not known.
    """
    scores = np.concatenate([stream.training, stream.test]).astype(np.float64)[:, None]
    parts = np.ones_like(scores) if stream.distances is None else np.nan_to_num(stream.distances) ** 2.0
    parts[~parts.any(axis=1)] = 1.0
    features = parts.shape[1]
    rows = np.sqrt(scores * features * parts / parts.sum(axis=1, keepdims=True))
    manifest = _square_version(stream.normal, features, settings)
    return _replay(manifest, rows, len(stream.training), settings, interval_s)


def replay_always(stream: StreamScores, settings: Settings, interval_s: float | None) -> Replay:
    """Make every test event an alert of one incident that never ends; the arguments of `replay_scores`."""
    count = len(stream.test)
    return Replay(np.ones(count, np.bool_), np.zeros(count, np.float32), [range(count)])


def _replay(
    manifest: Manifest,
    rows: NDArray[np.floating],
    training: int,
    settings: Settings,
    interval_s: float | None,
) -> Replay:
    """Pass rows through the live detector.

    Args:
        manifest: The version.
        rows: Training rows, then test rows, shape (n, features). A row without a value is not an event.
        training: Number of training rows.
        settings: Sections `data`, `threshold` and `live` count.
        interval_s: Time between two rows; None: it is not known.
    """
    interval_s = interval_s or ASSUMED_INTERVAL_S
    settings = settings.with_values(threshold={"interval_s": interval_s})
    numbers = np.flatnonzero(np.isfinite(rows).any(axis=1))
    alerts = np.zeros(len(rows), np.bool_)
    thresholds = np.full(len(rows), np.nan, np.float32)
    notices: list[Notice] = []
    with replayed_detector(manifest, settings) as live:
        for start in range(0, len(numbers), STEP):
            block = numbers[start : start + STEP]
            thresholds[block] = live.threshold
            outcome = live.step(rows[block], interval_s * block.astype(np.float64))
            alerts[block] = [verdict.anomaly for verdict in outcome.verdicts]
            notices += outcome.notices
    spans = _incidents(notices, len(rows), interval_s)
    after = [range(span.start - training, span.stop - training) for span in spans]
    return Replay(alerts[training:], thresholds[training:], [span for span in after if span.stop > 0])


def _incidents(notices: Sequence[Notice], events: int, interval_s: float) -> list[range]:
    """Return the events of each incident, in the order in which they began.

    Args:
        notices: All notices of a stream whose event `n` has the time `n * interval_s`.
        events: Number of events; an incident that has not ended reaches to the last one.
        interval_s: Time between two events.
    """
    spans: dict[str, range] = {}
    for notice in notices:
        start = round(notice.started / interval_s)
        if notice.kind in OPEN_KINDS:
            spans[notice.id] = range(start, events)
        elif notice.kind in END_KINDS and notice.ended is not None:
            spans[notice.id] = range(start, round(notice.ended / interval_s) + 1)
        elif notice.kind == "flapping":  # one notice of an incident whose end is not reported
            spans[notice.id] = range(start, start + 1)
    return list(spans.values())


def _square_version(normal: ScoreHistogram, features: int, settings: Settings) -> Manifest:
    """Return a version that scores an event by the mean of the squares of its values."""
    architecture = Architecture(features, window=1, hidden=(1,))
    nothing = {name: np.zeros(shape, np.float32) for name, shape in architecture.shapes.items()}
    plain = VersionSettings.of(settings.with_values(scaling={"by": "none", "clip": None}))
    one = Moments.of(np.zeros((1, features), np.float32))
    schema = Schema(tuple(f"part_{i}" for i in range(features)))
    version = Manifest(1, schema, architecture, nothing, one, plain)
    return replace(version, scores=normal, personalised=True)
