"""What the federated model is worth: the same test rows scored by it, by its rivals, and by chance.

Only for labelled data on one machine, as `flockwatch local` has it: pooled training needs all rows in one
place, which a federation never has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data import Partition
from client.trainer import Trainer
from common.manifest import Manifest
from common.moments import Moments, Scaler
from common.scoring import scores
from common.settings import Settings, TrainingSettings
from common.weights import Weights

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How well scores rank the anomalies of one client's test rows."""

    auroc: float
    average_precision: float


@dataclass(frozen=True)
class Comparison:
    """One client's test rows, scored four ways. None where a client has no labels, or labels of one kind."""

    client: str
    federated: Quality | None
    local_only: Quality | None
    pooled: Quality | None
    random: Quality | None


class _Client:
    """One client's scaled rows, windowed labels, and the share it trains on."""

    def __init__(self, partition: Partition, manifest: Manifest, settings: Settings) -> None:
        self.name = partition.name
        aligned = partition.aligned(manifest.schema)
        scaler = Scaler.chosen(settings.scaling, manifest.moments, Moments.of(aligned.rows))
        held = round(len(aligned.rows) * settings.training.holdout)
        self.training = scaler.apply(aligned.rows[: len(aligned.rows) - held])
        self.test = scaler.apply(aligned.test_rows)
        labels = aligned.test_labels
        # A window is judged by its last event, so the first window - 1 events have no score.
        self.labels = None if labels is None else labels[manifest.architecture.window - 1 :]

    def quality(self, found: NDArray[np.floating]) -> Quality | None:
        from sklearn.metrics import average_precision_score, roc_auc_score

        if self.labels is None or len(set(self.labels.tolist())) < 2:
            return None
        return Quality(
            float(roc_auc_score(self.labels, found)), float(average_precision_score(self.labels, found))
        )


def compare(
    partitions: Sequence[Partition],
    manifest: Manifest,
    settings: Settings,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Score every client's test rows by the federated model, a local-only one, a pooled one, and at random.

    Local-only and pooled models start from the same first weights as the federation did, and train for as
    many epochs in all on the same training rows under the same scaler. No test row trains anything.

    Args:
        partitions: All clients' data.
        manifest: The federation's final version.
        settings: What it was trained under.
        progress: Told what is being trained.
    """
    architecture = manifest.architecture
    clients = [_Client(partition, manifest, settings) for partition in partitions]
    trainer = Trainer(architecture, settings.training)
    epochs = max(1, manifest.version) * settings.training.epochs
    first = architecture.first_weights(settings.training.seed)
    progress("pooled training")
    pooled = _fit_pooled(clients, first, settings.training, epochs, trainer)
    rng = np.random.default_rng(settings.training.seed)
    found = []
    for client in clients:
        progress(f"local-only training of {client.name}")
        alone, _ = trainer.fit(first, client.training, epochs, settings.training.seed)

        def by(weights: Weights, rows: Rows = client.test) -> NDArray[np.float32]:
            return scores(architecture, weights, rows)

        found.append(
            Comparison(
                client=client.name,
                federated=client.quality(by(manifest.weights)),
                local_only=client.quality(by(alone)),
                pooled=client.quality(by(pooled)),
                random=client.quality(rng.random(max(0, len(client.test) - architecture.window + 1))),
            )
        )
    return found


def mean(qualities: Sequence[Quality | None]) -> Quality | None:
    """Mean over the clients that have one."""
    present = [quality for quality in qualities if quality is not None]
    if not present:
        return None
    return Quality(
        float(np.mean([q.auroc for q in present])), float(np.mean([q.average_precision for q in present]))
    )


def _fit_pooled(
    clients: Sequence[_Client], first: Weights, settings: TrainingSettings, epochs: int, trainer: Trainer
) -> Weights:
    """All clients' rows in one place; no window spans two clients."""
    rows = np.concatenate([client.training for client in clients])
    window = trainer.architecture.window
    starts, begin = [], 0
    for client in clients:
        starts.append(np.arange(begin, begin + len(client.training) - window + 1, dtype=np.int32))
        begin += len(client.training)
    weights, _ = trainer.fit(first, rows, epochs, settings.seed, starts=np.concatenate(starts))
    return weights
