"""The same autoencoder without a federation: each client alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.partition import Partition
from client.data.tables import DataError
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.sketch import ScoreSketch
from common.model.weights import Weights
from common.settings import Settings
from flockwatch.quality.stream import Scored

if TYPE_CHECKING:
    from client.training.trainer import Trainer

Rows = NDArray[np.float32]


def held_out(rows: int, settings: Settings) -> int:
    """Return how many of the training rows, the last ones, are held out, as `ClientRows.prepare` does."""
    return round(rows * settings.training.holdout)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One client's scaled rows, and the share that is trained on."""

    rows: Rows
    """Training rows, then test rows, shape (n + m, features)."""
    trained: int
    """Of the n training rows, the first that are trained on."""
    normal: int
    """n."""

    @classmethod
    def of(cls, partition: Partition, scaler: Scaler, settings: Settings) -> Prepared:
        """The client's rows under a scaler."""
        rows, count = np.concatenate([partition.rows, partition.test_rows]), len(partition.rows)
        return cls(scaler.apply(rows), count - held_out(count, settings), count)

    @property
    def training(self) -> Rows:
        """Rows that are trained on."""
        return self.rows[: self.trained]

    def parts(self, found: Rows) -> tuple[Rows, Rows, Rows]:
        """Scores of all whole windows, as those of training events, of held-out ones among them, and of test.

        Training events before the first whole window have NaN.

        Raises:
            DataError: no whole window is held out.
        """
        missing = len(self.rows) - len(found)
        held = found[self.trained if self.trained < self.normal else 0 : self.normal - missing]
        if not len(held):
            raise DataError(
                f"{self.normal - self.trained} training rows are held out; a window needs {missing + 1}"
            )
        whole = np.concatenate([np.full(missing, np.nan, np.float32), found])
        return whole[: self.normal], held, whole[self.normal :]


def own_scaler(partition: Partition, settings: Settings) -> Scaler:
    """Made of this client's training rows alone."""
    return Scaler.of(Moments.of(partition.rows), settings.scaling.clip)


def fleet_scaler(partitions: Sequence[Partition], settings: Settings) -> Scaler:
    """Made of the training rows of all, which moments can tell without the rows."""
    moments = Moments.merge_all(Moments.of(partition.rows) for partition in partitions)
    return Scaler.of(moments, settings.scaling.clip)


def alone(client: Prepared, trainer: Trainer, epochs: int, seed: int) -> Weights:
    """What one client learns from its own rows."""
    first = trainer.architecture.initial_weights(seed)
    weights, _ = trainer.fit(first, client.training, epochs, seed)
    return weights


def pooled(clients: Sequence[Prepared], trainer: Trainer, epochs: int, seed: int) -> Weights:
    """What all clients' rows in one place teach; no window spans two clients."""
    rows = np.concatenate([client.training for client in clients])
    window = trainer.architecture.window
    starts, begin = [], 0
    for client in clients:
        starts.append(np.arange(begin, begin + client.trained - window + 1, dtype=np.int32))
        begin += client.trained
    first = trainer.architecture.initial_weights(seed)
    weights, _ = trainer.fit(first, rows, epochs, seed, starts=np.concatenate(starts))
    return weights


def judged_together(clients: Sequence[Prepared], trainer: Trainer, weights: Weights) -> list[Scored]:
    """Every client's stream by one model, with the held-out scores of all."""
    parts = [c.parts(scores(trainer.architecture, weights, c.rows)) for c in clients]
    normal = ScoreSketch.merge_all(ScoreSketch.of(held) for _, held, _ in parts)
    return [Scored(training, test, normal) for training, _, test in parts]
