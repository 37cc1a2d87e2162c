"""The work of one client for the federation: describe its data, evaluate versions, and train on them."""

from __future__ import annotations

import logging
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from client.buffers.training_buffer import write_wanted
from client.data.files.csv_text import DataError
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import TrainerFactory, TrainingUnavailableError, personalise
from client.training.sums import sent_covariances, sent_leaf_counts
from client.transport.compression_state import CompressionState
from client.versions.version_store import VersionStore
from common.learning import wanted_rows
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.scoring import ErrorSummary, ScoredWindows
from common.model.weights import Architecture, subtract
from common.protocol.messages import Description, Evaluation, Task, Update
from common.settings import TrainingSettings

if TYPE_CHECKING:
    from client.training.trainer import Trainer

log = logging.getLogger(__name__)

MAX_OFFER_SHARE = 0.1
"""Largest share of the time that goes into personalising versions for the detector."""
OFFER_PAUSE_S = 10.0
"""Least seconds between two versions for the detector: each costs a trial and a file, and differs little."""


class ClientWorker:
    """One client's data and model, kept in memory between messages. It does no network I/O.

    Args:
        partition: The client's rows; its name is the client's name.
        instance: Random id of this client, which differs from that of another client with the same name (see
            `client.service.identity`).
        inline: Whether messages may carry their content inside (see `common.flower.packing`).
        folder: The state folder of this client's detector: its normal events are trained on too, and versions
            are offered to it. None: there is no detector.
        compression: The state that compressed messages need. None: a new one, in memory.
        get_trainer: Makes the trainer. None: a `TrainerCache` of this worker.
        min_rows: The setting `client.min_rows`, for a client with a detector, which gathers rows.
    """

    def __init__(
        self,
        partition: Partition,
        instance: str,
        inline: bool = False,
        folder: Path | None = None,
        compression: CompressionState | None = None,
        get_trainer: TrainerFactory | None = None,
        min_rows: int | None = None,
    ) -> None:
        self.name = partition.name
        self.instance = instance
        self.compression = compression or CompressionState()
        self._inline = inline
        self._rows = ClientRows(partition, folder)
        self._get_trainer = get_trainer or TrainerCache()
        self._store = VersionStore(folder) if folder is not None else None
        self._folder, self._min_rows = folder, min_rows
        self._wanted = 0
        """Normal events that the client needs before it trains."""
        self._newest_hash = ""
        """Hash of the newest version that was offered to the detector or waits for it."""
        self._pending: Manifest | None = None
        """The version to personalise and offer next; None: none waits."""
        self._busy_until = 0.0
        """The time when `offer_version` may work again, on the clock of `time.monotonic`."""

    def describe(self, window: int | None = None) -> Description:
        """Describe the client: its features, how many rows it has and wants, and their moments.

        Args:
            window: Events in a window of the fleet's model; None: not known.
        """
        rows = self._rows
        if self._folder is not None and window is not None:
            self._wanted = wanted_rows(self._min_rows, window, len(rows.partition.schema))
            write_wanted(self._folder, max(0, self._wanted - len(rows.partition.rows)))
        if self._can_train:
            rows.measure_again()
        else:
            rows.measure()
        return Description(
            self.name, self.instance, rows.partition.schema, rows.moments, self._inline, self._drifted,
            self.compression.codecs, self.compression.held_hash, rows.count, self._wanted,
        )  # fmt: skip

    def receive(self, manifest: Manifest) -> None:
        """Take the fleet's newest version without a task.

        A client that still learns offers it to its detector as it is. Any other personalises it first.
        """
        if self._store is None or manifest.hash == self._newest_hash:
            return
        current = self._store.current()
        if current is not None and current.version == manifest.version:
            return
        if self._can_train:
            self._remember(manifest)
            return
        self._newest_hash = manifest.hash
        self._store.offer(manifest.pack())
        log.info("version of the fleet offered version=%d rows=%d", manifest.version, self._rows.count)

    def evaluate(self, task: Task) -> Evaluation:
        """Measure the error of a version on the held-out rows.

        Raises:
            SchemaError: the features of the version are not those of this client.
            DataError: there are too few rows for one window on each side.
        """
        manifest = task.manifest
        prepared = self._rows.prepare(manifest)
        held_out = prepared.score_held_out(manifest)
        self._remember(manifest)
        return Evaluation(
            client=self.name,
            version=manifest.version,
            rows=prepared.training,
            error=ErrorSummary.of(held_out.errors),
            scores=ScoreHistogram.of(held_out.scores),
            drifted=self._drifted,
            residuals=_shared_residuals(held_out, manifest),
        )

    def train(self, task: Task) -> Update:
        """Measure the error of a version on the held-out rows, then train it on the training rows.

        Raises:
            SchemaError: the features of the version are not those of this client.
            DataError: there are too few rows for one window on each side.
            TrainingUnavailableError: TensorFlow is not installed.
        """
        started = time.perf_counter()
        manifest = task.manifest
        prepared = self._rows.prepare(manifest)
        held_out = prepared.score_held_out(manifest)
        self._remember(manifest)
        settings = manifest.settings.training
        trainer = self._get_trainer(manifest.architecture, settings)
        repetition = f"/{task.repeats}" if task.repeats else ""
        seed = zlib.crc32(f"{self.name}/{manifest.version}/{settings.seed}{repetition}".encode())
        trained, loss = trainer.fit(
            manifest.weights, prepared.rows, settings.epochs, seed, prepared.training_starts
        )
        return Update(
            client=self.name,
            version=manifest.version,
            rows=prepared.training,
            error=ErrorSummary.of(held_out.errors),
            scores=ScoreHistogram.of(held_out.scores) if task.options.scores else ScoreHistogram.empty(),
            residuals=_shared_residuals(held_out, manifest) if task.options.scores else Residuals(),
            drifted=self._drifted,
            loss=loss,
            train_s=time.perf_counter() - started,
            difference=subtract(trained, manifest.weights),
            covariances=sent_covariances(prepared, manifest) if task.options.covariances else None,
            leaf_counts=sent_leaf_counts(prepared, manifest) if task.options.leaf_counts else None,
        )

    def offer_version(self) -> None:
        """Personalise the newest version and offer it to the detector, if there is one.

        It is called whenever no message waits, and does nothing while this would take more than
        `MAX_OFFER_SHARE` of the time, or for `OFFER_PAUSE_S` after the last one.
        """
        manifest, started = self._pending, time.monotonic()
        if self._store is None or manifest is None or started < self._busy_until:
            return
        try:
            self._store.offer(personalise(manifest, self._rows, self._get_trainer).pack())
            self._pending = None
        except (OSError, DataError) as error:
            log.warning("version not offered version=%d reason=%s", manifest.version, error)
        except Exception as error:  # the version cannot be used here; it must not end the trainer
            self._pending = None
            log.error(
                "version not usable version=%d reason=%s: %s", manifest.version, type(error).__name__, error
            )
        ended = time.monotonic()
        self._busy_until = ended + max(OFFER_PAUSE_S, (1 / MAX_OFFER_SHARE - 1) * (ended - started))

    def _remember(self, manifest: Manifest) -> None:
        """Keep the newest trained version for `offer_version`."""
        if self._store is not None and manifest.version and manifest.hash != self._newest_hash:
            self._newest_hash, self._pending = manifest.hash, manifest

    @property
    def _can_train(self) -> bool:
        return self._rows.moments is not None and self._rows.count >= self._wanted

    @property
    def _drifted(self) -> bool:
        return self._store is not None and self._store.drifted


def _shared_residuals(held_out: ScoredWindows, manifest: Manifest) -> Residuals:
    """Return the sums over windows that the server aggregates; empty if scores do not use them."""
    return held_out.residuals if manifest.settings.scoring.normalise else Residuals()


class TrainerCache:
    """A `TrainerFactory` that keeps the last trainer: making one imports Keras and compiles a graph."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    def __call__(self, architecture: Architecture, settings: TrainingSettings) -> Trainer:
        """Return a trainer, the kept one if the model and the settings are the same.

        Raises:
            TrainingUnavailableError: TensorFlow is not installed.
        """
        trainer = self._trainer
        if trainer is None or (trainer.architecture, trainer.settings) != (architecture, settings):
            try:
                from client.training.trainer import Trainer
            except ImportError as error:
                raise TrainingUnavailableError(
                    f"training needs TensorFlow, which is not installed here ({error}): "
                    "install flockwatch with its extra 'train'"
                ) from error
            self._trainer = trainer = Trainer(architecture, settings)
        return trainer
