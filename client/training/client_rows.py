"""The normal rows of one client: its data file and its training buffer, scaled and divided for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.buffers.regime import Regime
from client.buffers.training_buffer import BufferedRows, read_buffer
from client.data.files.csv_text import DataError
from client.data.partition import Partition
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.schema import Schema
from common.model.scoring import ScoredWindows, score_windows, window_starts

Rows = NDArray[np.float32]

MEASURE_AGAIN = 2
"""Moments are measured again when there are this many times as many rows as when they were last measured."""


@dataclass(frozen=True, eq=False)
class PreparedRows:
    """Scaled rows, divided into training rows and held-out rows, which are the last ones."""

    rows: Rows
    """Shape (n, features), in time order; NaN where a value is missing."""
    training: int
    """Number of training rows."""
    training_starts: NDArray[np.int32]
    """First rows of the windows to train on."""
    held_out_starts: NDArray[np.int32]
    """First rows of the windows to evaluate on. If no rows are held out, all windows."""

    def score_training(self, manifest: Manifest) -> ScoredWindows:
        """Score the windows to train on by a version."""
        return self._score(manifest, self.training_starts)

    def score_held_out(self, manifest: Manifest) -> ScoredWindows:
        """Score the held-out windows by a version."""
        return self._score(manifest, self.held_out_starts)

    def _score(self, manifest: Manifest, starts: NDArray[np.int32]) -> ScoredWindows:
        return score_windows(manifest.architecture, manifest.weights, self.rows, starts, manifest.precision)


class ClientRows:
    """The rows that one client may train on.

    Args:
        partition: The rows of the client's data file; its name is the client's name.
        folder: The state folder with the detector's training buffer, whose rows follow those of the file.
            None: there is no detector.
    """

    def __init__(self, partition: Partition, folder: Path | None = None) -> None:
        self.partition = partition
        self.name = partition.name
        self._folder = folder
        self._schema, self._columns = partition.schema, list(range(len(partition.schema)))
        self._regime = Regime()
        self._file_rows, self._file_breaks = partition.rows, partition.breaks
        """Rows of the data file, shifted to the machine's present regime."""
        self._follow_regime()
        self.count = 0
        """Number of rows when they were last measured."""
        self.moments: Moments | None = None
        """Moments of the rows when they were last measured; None without rows."""
        self.measure()

    def measure(self) -> None:
        """Count the rows, and measure the moments that scale the next versions."""
        self._measure(self._normal().rows)

    def measure_again(self) -> None:
        """Measure the rows if there are many more of them than when they were last measured."""
        rows = self._normal().rows
        if len(rows) >= MEASURE_AGAIN * self.count:
            self._measure(rows)

    def _measure(self, rows: Rows) -> None:
        self.count = len(rows)
        if len(rows):
            self.moments = Moments.of(rows)

    def prepare(self, manifest: Manifest) -> PreparedRows:
        """Scale the rows for a version and divide them into training and held-out rows.

        Raises:
            SchemaError: the features of the version are not those of this client.
            DataError: there are too few rows for one window on each side.
        """
        changed = self._follow_regime()
        normal = self._normal()
        if changed or len(normal.rows) >= MEASURE_AGAIN * self.count:
            self._measure(normal.rows)
        rows = self.scaler(manifest).apply(normal.rows[:, self._order(manifest.schema)])
        held_out = round(len(rows) * manifest.settings.training.holdout)
        training = len(rows) - held_out
        window = manifest.architecture.window
        starts = window_starts(rows, normal.breaks, window)
        training_starts = starts[starts <= training - window]
        held_out_starts = starts[starts >= training] if held_out else starts
        if not len(training_starts) or not len(held_out_starts):
            raise DataError(
                f"{self.name}: {training} rows to train on and {held_out or len(rows)} held out, "
                f"but a window needs {window} of each"
            )
        return PreparedRows(rows, training, training_starts, held_out_starts)

    def scaler(self, manifest: Manifest) -> Scaler:
        """Return the scaler for this client's rows under a version."""
        return Scaler.chosen(
            manifest.settings.scaling, manifest.moments, self.aligned_moments(manifest.schema)
        )

    def aligned_moments(self, schema: Schema) -> Moments:
        """Return `moments` with the features in the order of `schema`.

        Raises:
            SchemaError: a feature is missing or extra; the message names it and this client.
            DataError: there were no rows.
        """
        if self.moments is None:
            raise DataError(f"{self.name}: no rows to train on yet")
        return self.moments.take(self._order(schema))

    def _order(self, schema: Schema) -> list[int]:
        """Return the column of each feature of `schema`, which is the same in all versions of a fleet."""
        if schema != self._schema:
            self._columns, self._schema = self.partition.aligned_order(schema), schema
        return self._columns

    def _current_regime(self) -> Regime:
        return Regime.load(self._folder) if self._folder is not None else Regime()

    def _follow_regime(self) -> bool:
        """Apply the regime that the detector has adapted to; return whether it has changed."""
        regime = self._current_regime()
        if regime == self._regime:
            return False
        self._regime = regime
        self._file_rows = regime.apply(self.partition.rows, self.partition.schema.features)
        return True

    def _normal(self) -> BufferedRows:
        """Return the rows of the file, shifted to the machine's present regime, and the buffered ones."""
        rows, breaks = self._file_rows, self._file_breaks
        buffered = read_buffer(self._folder, self.partition.schema) if self._folder is not None else None
        if buffered is None:
            return BufferedRows(rows, breaks)
        return BufferedRows(np.concatenate([rows, buffered.rows]), np.concatenate([breaks, buffered.breaks]))
