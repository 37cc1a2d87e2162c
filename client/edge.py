"""What one edge does when asked: describe its data, measure a version, train on it. No network here."""

from __future__ import annotations

import logging
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.buffer import Kept, read
from client.data import Partition
from client.store import Store
from client.tables import DataError
from client.wire import Wire
from common.architecture import Architecture
from common.manifest import Manifest
from common.messages import Description, Evaluation, Task, Update
from common.moments import Moments, Scaler
from common.scoring import ErrorSummary, scores, window_starts
from common.settings import ScalingSettings, ThresholdSettings, TrainingSettings
from common.sketch import ScoreSketch
from common.threshold import threshold
from common.weights import subtract

if TYPE_CHECKING:
    from client.trainer import Trainer

log = logging.getLogger(__name__)

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
        folder: The state folder that a detector shares: its normal events are trained on too, and versions
            are offered to it. None: there is no detector.
        wire: What is kept so that messages can be small. None: in memory.
    """

    def __init__(
        self,
        partition: Partition,
        instance: str,
        inline: bool = False,
        folder: Path | None = None,
        wire: Wire | None = None,
    ) -> None:
        self.wire = wire or Wire()
        self._inline = inline
        self.name = partition.name
        self.instance = instance
        self._partition = partition
        self._folder = folder
        self._store = Store(folder) if folder is not None else None
        self._offered = ""
        self._own_moments = Moments.of(self._normal().rows)
        self._trainer: Trainer | None = None

    def describe(self) -> Description:
        """The client's features and their moments over its training rows."""
        return Description(
            self.name, self.instance, self._partition.schema, self._own_moments, self._inline, self._drifted,
            self.wire.codecs, self.wire.held,
        )  # fmt: skip

    def evaluate(self, task: Task) -> Evaluation:
        """The error of a version on the held-out rows.

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
        """
        prepared = self._prepare(task.manifest)
        errors = prepared.errors(task.manifest)
        self._offer(task.manifest)
        return Evaluation(
            client=self.name,
            version=task.manifest.version,
            rows=prepared.cut,
            error=ErrorSummary.of(errors),
            scores=ScoreSketch.of(errors),
            drifted=self._drifted,
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
        prepared = self._prepare(manifest)
        errors = prepared.errors(manifest)
        self._offer(manifest)
        settings = TrainingSettings.model_validate(manifest.settings["training"])
        trainer = self.warm(manifest.architecture, settings)
        again = f"/{task.again}" if task.again else ""
        seed = zlib.crc32(f"{self.name}/{manifest.version}/{settings.seed}{again}".encode())
        trained, loss = trainer.fit(
            manifest.weights, prepared.rows, settings.epochs, seed, prepared.training_starts
        )
        return Update(
            client=self.name,
            version=manifest.version,
            rows=prepared.cut,
            error=ErrorSummary.of(errors),
            scores=ScoreSketch.of(errors) if task.terms.scores else ScoreSketch(),
            drifted=self._drifted,
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
        prepared = self._prepare(manifest)
        partition = self._partition.aligned(manifest.schema)
        events = self._scaler(manifest).apply(
            partition.test_rows if len(partition.test_rows) else partition.rows
        )
        limit = threshold(
            ThresholdSettings.model_validate(manifest.settings["threshold"]), prepared.errors(manifest)
        )
        found = scores(manifest.architecture, manifest.weights, events)
        return Judgement(self.name, prepared.cut, limit, len(found), int((found > limit).sum()))

    def adopted(self, manifest: Manifest) -> Manifest:
        """The version as a detector on this machine works with it: with this client's scaling.

        Raises:
            SchemaError: the federation's features are not this client's.
        """
        if ScalingSettings.model_validate(manifest.settings["scaling"]).by == "client":
            return replace(manifest, moments=self._moments(manifest))
        return manifest

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

    @property
    def _drifted(self) -> bool:
        return self._store is not None and self._store.drifted

    def _offer(self, manifest: Manifest) -> None:
        """Put a trained version on trial with the detector, if there is one, with this client's scaling."""
        if self._store is None or manifest.version == 0 or manifest.hash == self._offered:
            return
        self._offered = manifest.hash
        try:
            self._store.offer(self.adopted(manifest).pack())
        except OSError as error:
            self._offered = ""
            log.warning("version not offered version=%d reason=%s", manifest.version, error)

    def _normal(self) -> Kept:
        """All rows that may be trained on: the history, then what the detector has kept."""
        rows, breaks = self._partition.rows, np.zeros(len(self._partition.rows), np.bool_)
        breaks[:1] = True
        kept = read(self._folder, self._partition.schema) if self._folder is not None else None
        if kept is None:
            return Kept(rows, breaks)
        return Kept(np.concatenate([rows, kept.rows]), np.concatenate([breaks, kept.breaks]))

    def _prepare(self, manifest: Manifest) -> _Prepared:
        normal = self._normal()
        order = self._partition.aligned_order(manifest.schema)
        rows = self._scaler(manifest).apply(normal.rows[:, order])
        held = round(len(rows) * manifest.settings["training"]["holdout"])
        window = manifest.architecture.window
        starts = window_starts(normal.breaks, window)
        cut = len(rows) - held
        training, held_out = starts[starts <= cut - window], starts[starts >= cut] if held else starts
        if not len(training) or not len(held_out):
            raise DataError(
                f"{self.name}: {cut} rows to train on and {held or len(rows)} held out, "
                f"but a window needs {window} of each"
            )
        return _Prepared(rows, cut, training, held_out)

    def _moments(self, manifest: Manifest) -> Moments:
        """This client's own, in the order of the manifest's features."""
        return self._own_moments.select(self._partition.aligned_order(manifest.schema))

    def _scaler(self, manifest: Manifest) -> Scaler:
        scaling = ScalingSettings.model_validate(manifest.settings["scaling"])
        return Scaler.chosen(scaling, manifest.moments, self._moments(manifest))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Scaled rows, and where the windows begin that are trained on, and those that measure."""

    rows: Rows
    cut: int
    """Rows before it are trained on; those after it are held out."""
    training_starts: NDArray[np.int32]
    held_out_starts: NDArray[np.int32]

    def errors(self, manifest: Manifest) -> Rows:
        """The scores of the held-out windows."""
        return scores(manifest.architecture, manifest.weights, self.rows, self.held_out_starts)
