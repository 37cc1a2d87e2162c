"""The autoencoder trained without a federation: by each client alone, or on all rows in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.files.csv_text import DataError
from client.data.partition import Partition
from common.model.histogram import ScoreHistogram
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.weights import Weights
from common.settings import Settings
from flockwatch.quality.stream import StreamScores

if TYPE_CHECKING:
    from client.training.trainer import Trainer

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """One client's scaled rows: those to train on, those that are held out, and test rows."""

    rows: Floats
    """All rows in this order, shape (rows, features)."""
    trained: int
    """Number of rows to train on."""
    normal: int
    """Number of training rows, with those that are held out."""

    @classmethod
    def of(cls, partition: Partition, scaler: Scaler, settings: Settings) -> ScaledRows:
        """Return a client's rows, scaled; as many are held out as by `ClientRows.prepare`."""
        rows, count = np.concatenate([partition.rows, partition.test_rows]), len(partition.rows)
        return cls(scaler.apply(rows), count - held_out_rows(count, settings), count)

    @property
    def training(self) -> Floats:
        """The rows to train on."""
        return self.rows[: self.trained]

    def split_scores(self, scores: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the scores of training events, of the held-out ones among them, and of test events.

        Training events before the first whole window have the score NaN.

        Args:
            scores: Scores of all whole windows of `rows`.

        Raises:
            DataError: no whole window is held out.
        """
        missing = len(self.rows) - len(scores)
        held_out = scores[self.trained if self.trained < self.normal else 0 : self.normal - missing]
        if not len(held_out):
            raise DataError(
                f"{self.normal - self.trained} training rows are held out; a window needs {missing + 1}"
            )
        whole = np.concatenate([np.full(missing, np.nan, np.float32), scores])
        return whole[: self.normal], held_out, whole[self.normal :]


def held_out_rows(count: int, settings: Settings) -> int:
    """Return how many of a client's training rows, the last ones, are held out."""
    return round(count * settings.training.holdout)


def own_scaler(partition: Partition, settings: Settings) -> Scaler:
    """Return a scaler with the moments of one client's training rows."""
    return Scaler.of(Moments.of(partition.rows), settings.scaling.clip)


def fleet_scaler(partitions: Sequence[Partition], settings: Settings) -> Scaler:
    """Return a scaler with the moments of all clients' training rows."""
    moments = Moments.merge_all(Moments.of(partition.rows) for partition in partitions)
    return Scaler.of(moments, settings.scaling.clip)


def train_alone(client: ScaledRows, trainer: Trainer, epochs: int, seed: int) -> Weights:
    """Return the weights after training on one client's rows.

    Args:
        client: The client's rows.
        trainer: Trains the model.
        epochs: Number of passes over the rows.
        seed: Random seed of the initial weights and of the order of the windows.
    """
    initial = trainer.architecture.initial_weights(seed)
    weights, _ = trainer.fit(initial, client.training, epochs, seed)
    return weights


def train_pooled(clients: Sequence[ScaledRows], trainer: Trainer, epochs: int, seed: int) -> Weights:
    """Return the weights after training on all clients' rows; no window contains rows of two clients.

    Args:
        clients: Every client's rows.
        trainer: Trains the model.
        epochs: Number of passes over the rows.
        seed: Random seed of the initial weights and of the order of the windows.
    """
    rows = np.concatenate([client.training for client in clients])
    window = trainer.architecture.window
    starts, begin = [], 0
    for client in clients:
        starts.append(np.arange(begin, begin + client.trained - window + 1, dtype=np.int32))
        begin += client.trained
    initial = trainer.architecture.initial_weights(seed)
    weights, _ = trainer.fit(initial, rows, epochs, seed, starts=np.concatenate(starts))
    return weights


def score_clients(clients: Sequence[ScaledRows], trainer: Trainer, weights: Weights) -> list[StreamScores]:
    """Score every client's stream by one model; all share the histogram of all clients' held-out scores."""
    parts = [c.split_scores(scores(trainer.architecture, weights, c.rows)) for c in clients]
    fleet = ScoreHistogram.merge_all(ScoreHistogram.of(held_out) for _, held_out, _ in parts)
    return [
        StreamScores(training, test, fleet, client.rows)
        for client, (training, _, test) in zip(clients, parts, strict=True)
    ]
