"""Compares the federated model of a local run with models that were trained without a federation.

`flockwatch local` does this if the data has labels: pooled training needs all rows in one place, which a real
federation does not have. `flockwatch evaluate` measures more, over several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.settings import Settings
from flockwatch.quality.autoencoders import ScaledRows, score_clients, train_alone, train_pooled
from flockwatch.quality.metrics import RankingMetrics
from flockwatch.quality.stream import score_stream


@dataclass(frozen=True)
class Comparison:
    """Metrics of one client's test rows, scored in four ways.

    None where a client has no labels, or only labels of one kind.
    """

    client: str
    federated: RankingMetrics | None
    local_only: RankingMetrics | None
    pooled: RankingMetrics | None
    random: RankingMetrics | None


def compare(
    partitions: Sequence[Partition],
    manifest: Manifest,
    settings: Settings,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Score every client's test rows by the federated, a local-only and a pooled model, and at random.

    Local-only and pooled models start from the initial weights of the federation, and train for as many
    epochs on the same training rows with the same scaler. Test rows are not used for training.

    Args:
        partitions: The data of every client.
        manifest: The newest version of the federation.
        settings: The settings of the run.
        on_step: Called with a description of each step.
    """
    partitions = [partition.aligned(manifest.schema) for partition in partitions]
    clients = [ScaledRows.of(part, _scaler(part, manifest, settings), settings) for part in partitions]
    get_trainer, seed = TrainerCache(), settings.training.seed
    trainer = get_trainer(manifest.architecture, settings.training)
    epochs = max(1, manifest.version) * settings.training.epochs
    on_step("pooled training")
    pooled_scores = score_clients(clients, trainer, train_pooled(clients, trainer, epochs, seed))
    rng = np.random.default_rng(seed)
    comparisons = []
    for part, client, pooled in zip(partitions, clients, pooled_scores, strict=True):
        on_step(f"local-only training of {part.name}")
        (local_only,) = score_clients([client], trainer, train_alone(client, trainer, epochs, seed))
        federated = score_stream(personalise(manifest, ClientRows(part), get_trainer), part)
        comparisons.append(
            Comparison(
                client=part.name,
                federated=_metrics(part, federated.test),
                local_only=_metrics(part, local_only.test),
                pooled=_metrics(part, pooled.test),
                random=_metrics(part, rng.random(len(part.test_rows))),
            )
        )
    return comparisons


def _scaler(partition: Partition, manifest: Manifest, settings: Settings) -> Scaler:
    return Scaler.chosen(settings.scaling, manifest.moments, Moments.of(partition.rows))


def _metrics(partition: Partition, scores: NDArray[np.floating]) -> RankingMetrics | None:
    return None if partition.test_labels is None else RankingMetrics.of(partition.test_labels == 1, scores)
