"""The protocol: who is fitted to what, under which seed, and how every client's stream is judged.

Scalers, models and thresholds come from training rows alone; test rows are scored in their order, once, and
labels are only compared with what came of them (`docs/quality.md`).
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
from client.training.personalisation import personalise
from client.training.worker import ClientWorker
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.settings import Settings
from flockwatch.quality import autoencoders, rivals
from flockwatch.quality.autoencoders import Prepared, fleet_scaler, own_scaler
from flockwatch.quality.federation import federate, shared_trainer
from flockwatch.quality.metrics import FIGURES, Alarms, Ranking
from flockwatch.quality.stream import Scored, replayed, scored

if TYPE_CHECKING:
    from client.training.trainer import Trainer

FEDERATED = "federated"
TRAINED = ("local_only", "local_fleet_scaler", "pooled")
"""Rows of the same autoencoder without a federation, trained for as many epochs as the federation was."""
ROWS = (*rivals.RIVALS, *TRAINED, FEDERATED)
NEW_ROWS = ("local_only", "local_fleet_scaler", FEDERATED)
"""Rows of clients that no federation has met."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """One client's data, and how fast its events come."""

    partition: Partition
    """With labels."""
    interval_s: float

    @property
    def anomalies(self) -> NDArray[np.bool_]:
        """Shape (test rows,): whether each is labelled an anomaly."""
        assert self.partition.test_labels is not None  # noqa: S101  it was read as labelled
        anomalies: NDArray[np.bool_] = self.partition.test_labels == 1
        return anomalies


@dataclass(frozen=True, eq=False)
class Judged:
    """What one row made of one client's test events under one seed."""

    client: str
    figures: Mapping[str, float | None]
    """By the names of `metrics.FIGURES`; None where there is nothing to measure it on."""
    scores: NDArray[np.float32]
    """Shape (test rows,)."""
    thresholds: NDArray[np.float32]
    """Shape (test rows,): as the live detector had them."""


@dataclass(frozen=True)
class Job:
    """One piece of work: a row under a seed, or with a fold, all rows for the clients of that fold."""

    row: str
    seed: int
    epochs: int = 0
    """Of `TRAINED` rows: how long to train."""
    fold: int | None = None
    """Of new clients."""


@dataclass(frozen=True, eq=False)
class Done:
    """What came of a job: each row's clients, in the order of the fleet."""

    job: Job
    judged: Mapping[str, list[Judged]]
    rounds: int = 0
    """Of the federation, if there was one."""


def done(job: Job, clients: Sequence[Labelled], settings: Settings) -> Done:
    """Do a job.

    Raises:
        DataError, SchemaError: the clients' rows are too few, or of different features.
    """
    settings = settings.with_values(training={"seed": job.seed})
    if job.fold is not None:
        return _new_clients(job, clients, settings)
    parts = [client.partition for client in clients]
    rounds = 0
    if job.row == FEDERATED:
        manifest, found = _federated(parts, [], settings)
        rounds = manifest.version
    elif job.row in rivals.RIVALS:
        rival = rivals.RIVALS[job.row]
        prepared = (Prepared.of(part, own_scaler(part, settings), settings) for part in parts)
        found = [rivals.judged(rival, client, settings, job.seed) for client in prepared]
    elif job.row == "pooled":
        found = _pooled(parts, settings, job.epochs)
    else:
        fleet = fleet_scaler(parts, settings) if job.row == "local_fleet_scaler" else None
        found = [_alone(part, fleet or own_scaler(part, settings), settings, job.epochs) for part in parts]
    judged = [_judged(c, s, settings, job.row) for c, s in zip(clients, found, strict=True)]
    return Done(job, {job.row: judged}, rounds)


def _new_clients(job: Job, clients: Sequence[Labelled], settings: Settings) -> Done:
    """A fold's clients, with few rows of their own, and a federation of all the others."""
    assert job.fold is not None  # noqa: S101  it is why we are here
    rows, folds = settings.evaluate.new_client_rows, settings.evaluate.folds
    assert rows is not None  # noqa: S101  the plan makes such jobs only then
    new = [replace(c, partition=_newest(c.partition, rows)) for c in clients[job.fold :: folds]]
    parts = [c.partition for c in new]
    others = [c.partition for i, c in enumerate(clients) if i % folds != job.fold]
    manifest, federated = _federated(others, parts, settings)
    epochs = epochs_of(manifest.version, settings)
    fleet = fleet_scaler(others, settings)
    found = {
        "local_only": [_alone(p, own_scaler(p, settings), settings, epochs) for p in parts],
        "local_fleet_scaler": [_alone(p, fleet, settings, epochs) for p in parts],
        FEDERATED: federated,
    }
    judged = {
        row: [_judged(c, s, settings, row) for c, s in zip(new, streams, strict=True)]
        for row, streams in found.items()
    }
    return Done(job, judged, manifest.version)


def epochs_of(rounds: int, settings: Settings) -> int:
    """How long a rival of a federation of so many rounds trains: as many epochs in all."""
    return max(1, rounds) * settings.training.epochs


def _federated(
    members: Sequence[Partition], new: Sequence[Partition], settings: Settings
) -> tuple[Manifest, list[Scored]]:
    """The version that the members make, and the streams of the new clients by it, or else of the members.

    A version is personalised by the client's own code: nothing is composed here.
    """
    edges = [ClientWorker(part, part.name, get_trainer=shared_trainer) for part in members]
    with tempfile.TemporaryDirectory(prefix="flockwatch-evaluate-") as folder:
        manifest = federate(edges, settings, Path(folder))
    parts = new or members
    own = (personalise(manifest, ClientRows(part), shared_trainer) for part in parts)
    return manifest, [scored(version, part) for version, part in zip(own, parts, strict=True)]


def _alone(part: Partition, scaler: Scaler, settings: Settings, epochs: int) -> Scored:
    """A client's stream by what it learned from its own rows."""
    trainer = _trainer(part, settings)
    client = Prepared.of(part, scaler, settings)
    weights = autoencoders.alone(client, trainer, epochs, settings.training.seed)
    return autoencoders.judged_together([client], trainer, weights)[0]


def _pooled(parts: Sequence[Partition], settings: Settings, epochs: int) -> list[Scored]:
    """Every client's stream by what all rows in one place teach."""
    trainer, scaler = _trainer(parts[0], settings), fleet_scaler(parts, settings)
    clients = [Prepared.of(part, scaler, settings) for part in parts]
    weights = autoencoders.pooled(clients, trainer, epochs, settings.training.seed)
    return autoencoders.judged_together(clients, trainer, weights)


def _trainer(part: Partition, settings: Settings) -> Trainer:
    return shared_trainer(Architecture.from_settings(settings.model, len(part.schema)), settings.training)


def _newest(part: Partition, rows: int) -> Partition:
    """The client with its newest training rows alone."""
    count = len(part.rows)
    return part.take(part.name, np.arange(max(0, count - rows), count), np.arange(len(part.test_rows)))


def _judged(client: Labelled, stream: Scored, settings: Settings, row: str) -> Judged:
    """A client's figures by a stream of scores."""
    labels = client.anomalies
    if row == "always":
        flagged, thresholds, incidents = np.ones(len(labels), np.bool_), np.zeros_like(stream.test), None
    else:
        replay = replayed(stream, settings, client.interval_s)
        flagged, thresholds, incidents = replay.flagged, replay.thresholds, replay.incidents
    ranking = Ranking.of(labels, stream.test)
    alarms = Alarms.of(labels, flagged, incidents, client.interval_s)
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    figures |= asdict(ranking) if ranking is not None else {}
    return Judged(client.partition.name, figures | asdict(alarms), stream.test, thresholds)
