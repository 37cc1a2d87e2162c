"""What the federated model of one run is worth: the same test rows by it, by its rivals, and by chance.

Only for labelled data on one machine, as `flockwatch local` has it: pooled training needs all rows in one
place, which a federation never has. `flockwatch evaluate` measures the same and more over several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.trainer_cache import TrainerCache
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.settings import Settings
from flockwatch.quality import autoencoders
from flockwatch.quality.autoencoders import Prepared
from flockwatch.quality.metrics import Ranking
from flockwatch.quality.stream import scored


@dataclass(frozen=True)
class Comparison:
    """One client's test rows, scored four ways. None where a client has no labels, or labels of one kind."""

    client: str
    federated: Ranking | None
    local_only: Ranking | None
    pooled: Ranking | None
    random: Ranking | None


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
    partitions = [partition.aligned(manifest.schema) for partition in partitions]
    clients = [Prepared.of(part, _scaler(part, manifest, settings), settings) for part in partitions]
    get_trainer, seed = TrainerCache(), settings.training.seed
    trainer = get_trainer(manifest.architecture, settings.training)
    epochs = max(1, manifest.version) * settings.training.epochs
    progress("pooled training")
    together = autoencoders.judged_together(
        clients, trainer, autoencoders.pooled(clients, trainer, epochs, seed)
    )
    rng = np.random.default_rng(seed)
    found = []
    for part, client, by_pooled in zip(partitions, clients, together, strict=True):
        progress(f"local-only training of {part.name}")
        weights = autoencoders.alone(client, trainer, epochs, seed)
        (by_own,) = autoencoders.judged_together([client], trainer, weights)
        federated = scored(personalise(manifest, ClientRows(part), get_trainer), part)
        found.append(
            Comparison(
                client=part.name,
                federated=_ranking(part, federated.test),
                local_only=_ranking(part, by_own.test),
                pooled=_ranking(part, by_pooled.test),
                random=_ranking(part, rng.random(len(part.test_rows))),
            )
        )
    return found


def _scaler(partition: Partition, manifest: Manifest, settings: Settings) -> Scaler:
    return Scaler.chosen(settings.scaling, manifest.moments, Moments.of(partition.rows))


def _ranking(partition: Partition, found: NDArray[np.floating]) -> Ranking | None:
    return None if partition.test_labels is None else Ranking.of(partition.test_labels == 1, found)
