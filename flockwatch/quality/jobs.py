"""Jobs of an evaluation: each fits one detection method under one seed and measures it on every client.

Scalers, models and thresholds depend on training rows only. Test rows are scored once and in order, and
labels are only compared with the results (`docs/quality.md`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.own_detectors import has_sums_of
from client.training.personalisation import personalise
from client.training.worker import ClientWorker
from common.detectors.choice import IN_PLACE
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import DetectorFamily, Settings
from flockwatch.quality import baselines
from flockwatch.quality.autoencoders import (
    ScaledRows,
    fleet_scaler,
    own_scaler,
    score_clients,
    train_alone,
    train_pooled,
)
from flockwatch.quality.federation import federate, shared_trainer
from flockwatch.quality.metrics import METRICS, AlertMetrics, RankingMetrics
from flockwatch.quality.stream import (
    Replay,
    StreamScores,
    replay_always,
    replay_rows,
    replay_scores,
    score_stream,
)

if TYPE_CHECKING:
    from client.training.trainer import Trainer

FEDERATED = "federated"
TRAINED = ("local_only", "local_fleet_scaler", "pooled")
"""Methods that train the same autoencoder without a federation, for as many epochs as the federation."""
ALONE = "federated_autoencoder"
"""The autoencoder of the federation without other detectors, whatever the settings say."""
OF_VERSION = (FEDERATED, ALONE, *IN_PLACE)
"""Methods that score by the version of a federation."""
METHODS = (*baselines.BASELINES, *TRAINED, *OF_VERSION)
"""All methods. Each is a row of the tables."""
NEW_CLIENT_METHODS = ("local_only", "local_fleet_scaler", *OF_VERSION)
"""Methods that are measured on clients that took part in no federation."""


@dataclass(frozen=True, eq=False)
class LabelledClient:
    """One client's data, with labels, and the time between its events."""

    partition: Partition
    interval_s: float | None
    """None: it is not known."""

    @property
    def anomalies(self) -> NDArray[np.bool_]:
        """Whether each test row is labelled as an anomaly, shape (test rows,)."""
        assert self.partition.test_labels is not None  # noqa: S101  it was read as labelled
        anomalies: NDArray[np.bool_] = self.partition.test_labels == 1
        return anomalies


@dataclass(frozen=True, eq=False)
class ClientResult:
    """The result of one method for one client's test rows under one seed."""

    client: str
    metrics: Mapping[str, float | None]
    """The values by the names in `METRICS`; None where a metric has no value."""
    scores: NDArray[np.float32]
    """Shape (test rows,)."""
    thresholds: NDArray[np.float32]
    """The live detector's threshold at each test row, shape (test rows,)."""


@dataclass(frozen=True)
class Job:
    """One method under one seed; with a fold, all of `NEW_CLIENT_METHODS` for the clients of the fold."""

    method: str
    seed: int
    epochs: int = 0
    """Training time of the methods in `TRAINED`."""
    fold: int | None = None
    """Number of the group of clients that take part in no federation."""


@dataclass(frozen=True, eq=False)
class JobResult:
    """The results of a job: for each method those of its clients, in the order of the fleet."""

    job: Job
    clients: Mapping[str, list[ClientResult]]
    rounds: int = 0
    """Rounds of the federation, if there was one."""


def run_job(job: Job, clients: Sequence[LabelledClient], settings: Settings) -> JobResult:
    """Run a job.

    Raises:
        DataError, SchemaError: the clients have too few rows, or different features.
    """
    settings = settings.with_values(training={"seed": job.seed})
    if job.fold is not None:
        return _run_new_clients(job, clients, settings)
    parts = [client.partition for client in clients]
    if job.method in OF_VERSION:
        manifest = _federate(parts, settings)
        return JobResult(job, _versions(manifest, clients, settings), manifest.version)
    if job.method in baselines.BASELINES:
        baseline = baselines.BASELINES[job.method]
        scaled = (ScaledRows.of(part, own_scaler(part, settings), settings) for part in parts)
        streams = [baselines.score_client(baseline, client, settings, job.seed) for client in scaled]
    elif job.method == "pooled":
        streams = _score_pooled(parts, settings, job.epochs)
    else:
        fleet = fleet_scaler(parts, settings) if job.method == "local_fleet_scaler" else None
        streams = [
            _score_alone(part, fleet or own_scaler(part, settings), settings, job.epochs) for part in parts
        ]
    return JobResult(job, {job.method: _scored(streams, clients, settings, job.method)})


def _run_new_clients(job: Job, clients: Sequence[LabelledClient], settings: Settings) -> JobResult:
    """Train a federation without the clients of a fold, and measure them with few rows of their own."""
    assert job.fold is not None  # noqa: S101  the caller has checked it
    rows, folds = settings.evaluate.new_client_rows, settings.evaluate.folds
    assert rows is not None  # noqa: S101  there are such jobs only if it is set
    new = [replace(c, partition=_newest(c.partition, rows)) for c in clients[job.fold :: folds]]
    parts = [c.partition for c in new]
    others = [c.partition for i, c in enumerate(clients) if i % folds != job.fold]
    manifest = _federate(others, settings)
    epochs = epochs_of(manifest.version, settings)
    fleet = fleet_scaler(others, settings)
    alone = [_score_alone(p, own_scaler(p, settings), settings, epochs) for p in parts]
    with_fleet_scaler = [_score_alone(p, fleet, settings, epochs) for p in parts]
    results = {
        "local_only": _scored(alone, new, settings, "local_only"),
        "local_fleet_scaler": _scored(with_fleet_scaler, new, settings, "local_fleet_scaler"),
        **_versions(manifest, new, settings),
    }
    return JobResult(job, results, manifest.version)


def epochs_of(rounds: int, settings: Settings) -> int:
    """Return the number of epochs that a client trains in a federation with this number of rounds."""
    return max(1, rounds) * settings.training.epochs


def _federate(parts: Sequence[Partition], settings: Settings) -> Manifest:
    """Return the newest version of a federation, with all sums over its clients that detectors use.

    These are those of an ensemble, whatever the settings say.
    """
    settings = settings.with_values(detector={"family": "ensemble"})
    clients = [ClientWorker(part, part.name, get_trainer=shared_trainer) for part in parts]
    with tempfile.TemporaryDirectory(prefix="flockwatch-evaluate-") as folder:
        return federate(clients, settings, Path(folder))


def _versions(
    manifest: Manifest, clients: Sequence[LabelledClient], settings: Settings
) -> dict[str, list[ClientResult]]:
    """Measure a version as the settings say, without other detectors, and with each family of sums."""
    families: dict[str, DetectorFamily] = {FEDERATED: settings.detector.family, ALONE: "autoencoder"}
    # There are no covariances of very large windows.
    families |= {name: family for name, family in IN_PLACE.items() if has_sums_of(name, manifest)}
    results = {}
    for method, family in families.items():
        of_family = VersionSettings.of(settings.with_values(detector={"family": family}))
        results[method] = _federated(replace(manifest, settings=of_family), clients, settings)
    return results


def _federated(
    manifest: Manifest, clients: Sequence[LabelledClient], settings: Settings
) -> list[ClientResult]:
    """Measure a version, personalised by each client, in the live detector."""
    results = []
    for client in clients:
        part = client.partition
        own = personalise(manifest, ClientRows(part), shared_trainer)
        replay = replay_rows(own, part, settings, client.interval_s)
        results.append(_result(client, score_stream(own, part), replay))
    return results


def _scored(
    streams: Sequence[StreamScores], clients: Sequence[LabelledClient], settings: Settings, method: str
) -> list[ClientResult]:
    """Measure a method by its scores, which pass through the live detector's threshold and incidents.

    Args:
        streams: Each client's scores.
        clients: The clients.
        settings: Sections `threshold` and `live` count.
        method: The method that made the scores.
    """
    replay = replay_always if method == "always" else replay_scores
    return [
        _result(client, stream, replay(stream, settings, client.interval_s))
        for client, stream in zip(clients, streams, strict=True)
    ]


def _score_alone(part: Partition, scaler: Scaler, settings: Settings, epochs: int) -> StreamScores:
    """Score a client's stream by a model that is trained on the client's rows.

    Args:
        part: The client's data.
        scaler: The scaler of its rows.
        settings: The settings of the training.
        epochs: Number of passes over the rows.
    """
    trainer = _trainer(part, settings)
    client = ScaledRows.of(part, scaler, settings)
    weights = train_alone(client, trainer, epochs, settings.training.seed)
    return score_clients([client], trainer, weights)[0]


def _score_pooled(parts: Sequence[Partition], settings: Settings, epochs: int) -> list[StreamScores]:
    """Score every client's stream by one model that is trained on all rows."""
    trainer, scaler = _trainer(parts[0], settings), fleet_scaler(parts, settings)
    clients = [ScaledRows.of(part, scaler, settings) for part in parts]
    weights = train_pooled(clients, trainer, epochs, settings.training.seed)
    return score_clients(clients, trainer, weights)


def _trainer(part: Partition, settings: Settings) -> Trainer:
    return shared_trainer(Architecture.from_settings(settings.model, len(part.schema)), settings.training)


def _newest(part: Partition, rows: int) -> Partition:
    """Return a client with only its newest training rows."""
    count = len(part.rows)
    return part.take(part.name, np.arange(max(0, count - rows), count), np.arange(len(part.test_rows)))


def _result(client: LabelledClient, stream: StreamScores, replay: Replay) -> ClientResult:
    """Return the metrics of a client's scores, and of the alerts and incidents in the live detector."""
    labels = client.anomalies
    # An event without a score is never an alert, so it ranks below all others.
    scores = np.nan_to_num(stream.test, nan=0.0)
    ranking = RankingMetrics.of(labels, scores)
    of_alerts = AlertMetrics.of(labels, replay.alerts, replay.incidents, client.interval_s)
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics |= asdict(ranking) if ranking is not None else {}
    return ClientResult(client.partition.name, metrics | asdict(of_alerts), scores, replay.thresholds)
