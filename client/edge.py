"""What one edge does when asked: describe its data, measure a version, train on it. No network here."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data import Partition
from client.tables import DataError
from common.architecture import Architecture
from common.manifest import Manifest
from common.messages import Description, Evaluation, Task, Update
from common.moments import Moments, Scaler
from common.scoring import ErrorSummary, scores
from common.settings import ScalingSettings, ThresholdSettings, TrainingSettings
from common.sketch import ScoreSketch
from common.threshold import threshold
from common.weights import subtract

if TYPE_CHECKING:
    from client.trainer import Trainer

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Judgement:
    """What a version says of one client's events: its test rows, or all its rows where it has none."""

    client: str
    rows: int
    """Rows that the client trains on."""
    threshold: float
    events: int
    anomalies: int
    """Events with a score above the threshold."""


class TrainingUnavailable(RuntimeError):
    """This machine was asked to train, but has no TensorFlow."""


class Edge:
    """One client's data and model, kept warm between messages.

    Args:
        partition: The client's rows; its name is the client's name.
        instance: Tells this client from another that claims its name (see `client.identity`).
        inline: Whether messages may carry their content inside (see `common.flwr_private`).
    """

    def __init__(self, partition: Partition, instance: str, inline: bool = False) -> None:
        self._inline = inline
        self.name = partition.name
        self.instance = instance
        self._partition = partition
        self._own_moments = Moments.of(partition.rows)
        self._trainer: Trainer | None = None

    def describe(self) -> Description:
        """The client's features and their moments over its training rows."""
        return Description(self.name, self.instance, self._partition.schema, self._own_moments, self._inline)

    def evaluate(self, task: Task) -> Evaluation:
        """The error of a version on the held-out rows.

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
        """
        training, held_out = self._prepare(task.manifest)
        errors = _scores(task.manifest, held_out)
        return Evaluation(
            client=self.name,
            version=task.manifest.version,
            rows=len(training),
            error=ErrorSummary.of(errors),
            scores=ScoreSketch.of(errors),
            drifted=False,
        )

    def train(self, task: Task) -> Update:
        """The error of a version on the held-out rows, and what training on the others changes in it.

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
            TrainingUnavailable: TensorFlow is not installed.
        """
        started = time.perf_counter()
        manifest = task.manifest
        training, held_out = self._prepare(manifest)
        errors = _scores(manifest, held_out)
        settings = TrainingSettings.model_validate(manifest.settings["training"])
        trainer = self.warm(manifest.architecture, settings)
        seed = zlib.crc32(f"{self.name}/{manifest.version}/{settings.seed}".encode())
        trained, loss = trainer.fit(manifest.weights, training, settings.epochs, seed)
        return Update(
            client=self.name,
            version=manifest.version,
            rows=len(training),
            error=ErrorSummary.of(errors),
            scores=ScoreSketch.of(errors),
            drifted=False,
            loss=loss,
            train_s=time.perf_counter() - started,
            difference=subtract(trained, manifest.weights),
        )

    def judge(self, manifest: Manifest) -> Judgement:
        """Score the test rows by a version, with the threshold that the held-out rows give.

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
        """
        training, held_out = self._prepare(manifest)
        partition = self._partition.aligned(manifest.schema)
        events = self._scaler(manifest).apply(
            partition.test_rows if len(partition.test_rows) else partition.rows
        )
        limit = threshold(
            ThresholdSettings.model_validate(manifest.settings["threshold"]), _scores(manifest, held_out)
        )
        found = _scores(manifest, events)
        return Judgement(self.name, len(training), limit, len(found), int((found > limit).sum()))

    def warm(self, architecture: Architecture, settings: TrainingSettings) -> Trainer:
        """The trainer for this model: the one that is kept, unless the model has changed.

        Raises:
            TrainingUnavailable: TensorFlow is not installed.
        """
        kept = self._trainer
        if kept is None or (kept.architecture, kept.settings) != (architecture, settings):
            try:
                from client.trainer import Trainer
            except ImportError as error:
                raise TrainingUnavailable(
                    f"training needs TensorFlow, which is not installed here ({error}): "
                    "install flockwatch with its extra 'train'"
                ) from error
            self._trainer = kept = Trainer(architecture, settings)
        return kept

    def _prepare(self, manifest: Manifest) -> tuple[Rows, Rows]:
        """Scaled rows to train on, and the later ones held out."""
        partition = self._partition.aligned(manifest.schema)
        scaler = self._scaler(manifest)
        rows = partition.rows
        held = round(len(rows) * manifest.settings["training"]["holdout"])
        training, held_out = rows[: len(rows) - held], rows[len(rows) - held :] if held else rows
        window = manifest.architecture.window
        if min(len(training), len(held_out)) < window:
            raise DataError(
                f"{self.name}: {len(training)} rows to train on and {len(held_out)} held out, "
                f"but a window needs {window} of each"
            )
        return scaler.apply(training), scaler.apply(held_out)

    def _scaler(self, manifest: Manifest) -> Scaler:
        scaling = ScalingSettings.model_validate(manifest.settings["scaling"])
        columns = self._partition.schema
        own = self._own_moments.select(manifest.schema.align(columns.features))
        return Scaler.chosen(scaling, manifest.moments, own)


def _scores(manifest: Manifest, rows: Rows) -> Rows:
    return scores(manifest.architecture, manifest.weights, rows)
