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

from client.data.partition import Partition
from client.data.tables import DataError
from client.data.training_buffer import BufferedRows, read
from client.transport.compression_state import CompressionState
from client.versions.version_store import VersionStore
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.scoring import ErrorSummary, ScoredWindows, score_windows, version_scores, window_starts
from common.model.sketch import ScoreSketch
from common.model.threshold import quantile_threshold
from common.model.weights import Weights, subtract
from common.protocol.messages import Description, Evaluation, Task, Update
from common.settings import ScoringSettings, TrainingSettings

if TYPE_CHECKING:
    from client.training.trainer import Trainer

log = logging.getLogger(__name__)

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class ThresholdReport:
    """What a version says of one client's events: its test rows, or all its rows where it has none."""

    client: str
    rows: int
    """Rows that the client trains on."""
    threshold: float
    events: int
    anomalies: int
    """Events with a score above the threshold."""


class TrainingUnavailableError(RuntimeError):
    """This machine was asked to train, but has no TensorFlow."""


class ClientWorker:
    """One client's data and model, kept warm between messages.

    Args:
        partition: The client's rows; its name is the client's name.
        instance: Tells this client from another that claims its name (see `client.service.identity`).
        inline: Whether messages may carry their content inside (see `common.flower.packing`).
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
        wire: CompressionState | None = None,
    ) -> None:
        self.wire = wire or CompressionState()
        self._inline = inline
        self.name = partition.name
        self.instance = instance
        self._partition = partition
        self._folder = folder
        self._store = VersionStore(folder) if folder is not None else None
        self._newest = ""
        self._pending: Manifest | None = None
        self._busy_until = 0.0
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
        found = prepared.held_out(task.manifest)
        self._wait_to_offer(task.manifest)
        return Evaluation(
            client=self.name,
            version=task.manifest.version,
            rows=prepared.cut,
            error=ErrorSummary.of(found.errors),
            scores=ScoreSketch.of(found.scores),
            drifted=self._drifted,
            residuals=self._told(found, task.manifest),
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
        found = prepared.held_out(manifest)
        self._wait_to_offer(manifest)
        settings = manifest.settings.training
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
            error=ErrorSummary.of(found.errors),
            scores=ScoreSketch.of(found.scores) if task.terms.scores else ScoreSketch(),
            residuals=self._told(found, manifest) if task.terms.scores else Residuals(),
            drifted=self._drifted,
            loss=loss,
            train_s=time.perf_counter() - started,
            difference=subtract(trained, manifest.weights),
        )

    def judge(self, manifest: Manifest) -> ThresholdReport:
        """Score the test rows by a version, with the threshold that the held-out rows give.

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
        """
        prepared = self._prepare(manifest)
        manifest = self.adopted(manifest)
        partition = self._partition.aligned(manifest.schema)
        events = self._scaler(manifest).apply(
            partition.test_rows if len(partition.test_rows) else partition.rows
        )
        limit = quantile_threshold(
            manifest.settings.threshold,
            version_scores(manifest, prepared.rows, prepared.held_out_starts),
        )
        found = version_scores(manifest, events)
        return ThresholdReport(self.name, prepared.cut, limit, len(found), int((found > limit).sum()))

    def adopted(self, manifest: Manifest) -> Manifest:
        """The version as a detector on this machine works with it: scaled, tuned and weighed for this client.

        Of what this client's own rows say, it takes a share of `n / (n + prior)`, n being their windows: of
        the weights that they tune the version to, and of the inputs' usual errors. The rest is the fleet's.

        Source: the share is that of a normal mean under a conjugate prior (Efron and Morris 1973).

        Raises:
            SchemaError: the federation's features are not this client's.
            DataError: there are too few rows for one window on each side.
        """
        by = manifest.settings.scaling.by
        scoring = manifest.settings.scoring
        prepared = self._prepare(manifest)
        if by == "client":
            manifest = replace(manifest, moments=self._moments(manifest))
        elif by == "shared":
            manifest = replace(manifest, moments=manifest.moments.for_client(self._moments(manifest)))
        tuned = self._tuned(manifest, prepared, scoring)
        if tuned is None:
            return prepared.weighed(manifest, scoring)
        own = len(prepared.training_starts) / (len(prepared.training_starts) + scoring.prior)
        mixed = {n: (1 - own) * w + own * tuned[n] for n, w in manifest.weights.items()}
        weights = {n: array.astype(np.float32) for n, array in mixed.items()}
        return prepared.weighed(replace(manifest, weights=weights), scoring)

    def _tuned(self, manifest: Manifest, prepared: _Prepared, scoring: ScoringSettings) -> Weights | None:
        """What a few epochs on this client's own rows make of a version's weights, where there can be any."""
        if not scoring.personal_epochs:
            return None
        settings = manifest.settings.training
        seed = zlib.crc32(f"{self.name}/{manifest.version}/{settings.seed}/personal".encode())
        try:
            tuned, _ = self.warm(manifest.architecture, settings).fit(
                manifest.weights, prepared.rows, scoring.personal_epochs, seed, prepared.training_starts
            )
        except TrainingUnavailableError:
            return None
        return tuned

    def warm(self, architecture: Architecture, settings: TrainingSettings) -> Trainer:
        """The trainer for this model: the one that is kept, unless the model has changed.

        Raises:
            TrainingUnavailable: TensorFlow is not installed.
        """
        kept = self._trainer
        if kept is None or (kept.architecture, kept.settings) != (architecture, settings):
            try:
                from client.training.trainer import Trainer
            except ImportError as error:
                raise TrainingUnavailableError(
                    f"training needs TensorFlow, which is not installed here ({error}): "
                    "install flockwatch with its extra 'train'"
                ) from error
            self._trainer = kept = Trainer(architecture, settings)
        return kept

    @property
    def _drifted(self) -> bool:
        return self._store is not None and self._store.drifted

    def rest(self) -> None:
        """Between messages: put the newest version on trial with the detector, if there is one.

        Making it this client's own takes time, so at most a tenth of all time goes into it.
        """
        manifest, started = self._pending, time.monotonic()
        if self._store is None or manifest is None or started < self._busy_until:
            return
        try:
            self._store.offer(self.adopted(manifest).pack())
            self._pending = None
        except (OSError, DataError) as error:
            log.warning("version not offered version=%d reason=%s", manifest.version, error)
        ended = time.monotonic()
        self._busy_until = ended + 9 * (ended - started)

    def _wait_to_offer(self, manifest: Manifest) -> None:
        if self._store is not None and manifest.version and manifest.hash != self._newest:
            self._newest, self._pending = manifest.hash, manifest

    @staticmethod
    def _told(found: ScoredWindows, manifest: Manifest) -> Residuals:
        """What the fleet learns of this client's residuals: sums over windows, and nothing if unused."""
        scoring = manifest.settings.scoring
        return found.residuals if scoring.normalise else Residuals()

    def _normal(self) -> BufferedRows:
        """All rows that may be trained on: the history, then what the detector has kept."""
        rows, breaks = self._partition.rows, np.zeros(len(self._partition.rows), np.bool_)
        breaks[:1] = True
        kept = read(self._folder, self._partition.schema) if self._folder is not None else None
        if kept is None:
            return BufferedRows(rows, breaks)
        return BufferedRows(np.concatenate([rows, kept.rows]), np.concatenate([breaks, kept.breaks]))

    def _prepare(self, manifest: Manifest) -> _Prepared:
        normal = self._normal()
        order = self._partition.aligned_order(manifest.schema)
        rows = self._scaler(manifest).apply(normal.rows[:, order])
        held = round(len(rows) * manifest.settings.training.holdout)
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
        return self._own_moments.take(self._partition.aligned_order(manifest.schema))

    def _scaler(self, manifest: Manifest) -> Scaler:
        scaling = manifest.settings.scaling
        return Scaler.chosen(scaling, manifest.moments, self._moments(manifest))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Scaled rows, and where the windows begin that are trained on, and those that measure."""

    rows: Rows
    cut: int
    """Rows before it are trained on; those after it are held out."""
    training_starts: NDArray[np.int32]
    held_out_starts: NDArray[np.int32]

    def weighed(self, manifest: Manifest, scoring: ScoringSettings) -> Manifest:
        """A version with the precision that its errors on the training windows and the fleet's call for."""
        if not scoring.normalise:
            return replace(manifest, residuals=Residuals())
        own = score_windows(
            manifest.architecture, manifest.weights, self.rows, self.training_starts
        ).residuals
        return replace(manifest, residuals=own.blended_with(manifest.residuals, scoring.prior))

    def held_out(self, manifest: Manifest) -> ScoredWindows:
        """What a version makes of the held-out windows."""
        return score_windows(
            manifest.architecture, manifest.weights, self.rows, self.held_out_starts, manifest.precision
        )
