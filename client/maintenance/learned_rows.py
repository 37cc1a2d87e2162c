"""The rows that a detector learns from: normal events that are not unusual for this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.buffers.daily_habits import BELOW, DailyHabits
from client.buffers.held_back import ReleasedEvents
from client.buffers.regime import Move, move_rows
from client.buffers.training_buffer import BufferedRows, TrainingBuffer, write_schema
from client.maintenance.problems import Problems
from client.versions.trial import buffer_scores
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.model.scoring import window_starts
from common.model.threshold import robust_limit

log = logging.getLogger(__name__)


class LearnedRows:
    """Decides which events go into the training buffer, and moves them when the machine's level changes.

    Args:
        folder: The client's state folder.
        schema: The features of the stream.
        capacity: Number of events that the buffer holds.
        problems: Gets a problem when the buffer cannot be kept.
        habits: The machine's daily habits, which learn from the unusual events.
    """

    def __init__(
        self, folder: Path, schema: Schema, capacity: int, problems: Problems, habits: DailyHabits
    ) -> None:
        self._folder, self._schema, self._capacity = folder, schema, capacity
        self._problems, self._habits = problems, habits
        self._buffer: TrainingBuffer | None = None
        self._gap = False
        """Whether an event was left out since the last one that was added."""
        self._habits_logged: set[int] = set()
        self.left_out = 0
        """Number of normal events that were not learned from because they are unusual."""

    def __len__(self) -> int:
        """Return the number of events in the training buffer."""
        return len(self._buffer) if self._buffer is not None else 0

    def open(self) -> None:
        """Open the training buffer, if it is not open; record a problem if that fails."""
        if self._buffer is not None:
            return
        with self._problems.watch("buffer"):
            self._buffer = TrainingBuffer(self._folder, self._schema, self._capacity)
            write_schema(self._folder, self._schema)
            if self._buffer.problem is not None:
                self._problems.set("buffer.ring", self._buffer.problem)

    def close(self) -> None:
        """Write everything to disk."""
        if self._buffer is not None:
            self._buffer.close()

    def contents(self) -> BufferedRows:
        """Return copies of all events in the buffer."""
        return self._buffer.contents() if self._buffer is not None else BufferedRows.empty(len(self._schema))

    def add(self, events: ReleasedEvents, scores: ScoreHistogram) -> None:
        """Add the normal events that are not unusual for this machine, and those of daily habits.

        Events that no version has scored are the first rows for a first version, and are added.

        Args:
            events: Events that have been released.
            scores: Scores of normal events under the active version; empty without one.
        """
        if self._buffer is None:
            return
        first_rows = events.versions == 0
        usual = first_rows | events.habitual | (events.scores <= robust_limit(scores))
        for i in np.flatnonzero(events.learnable & ~usual & np.isfinite(events.scores)):
            usual[i] = self._habits.add(BELOW, float(events.times[i]))
        learnable = events.learnable & usual
        self._log_habits(set(events.causes[learnable & events.habitual].tolist()))
        self.left_out += int((events.learnable & ~usual).sum())
        # An event after one that is left out does not follow the event before it in the buffer.
        follows = np.concatenate([[not self._gap], learnable[:-1]])
        self._gap = not learnable[-1]
        if learnable.any():
            self._buffer.append(events.rows[learnable], (events.breaks | ~follows)[learnable])

    def clean(self, manifest: Manifest) -> None:
        """Drop the events that are unusual under a first version: no version has scored them before."""
        if self._buffer is None or not len(self):
            return
        events = self._buffer.contents()
        scores = buffer_scores(manifest, events)
        finite = np.isfinite(scores)
        unusual = ~(scores <= robust_limit(ScoreHistogram.of(scores[finite])))
        window = manifest.architecture.window
        ends = window_starts(events.rows, events.breaks, window) + window - 1
        keep = np.ones(len(events.rows), np.bool_)
        keep[ends[unusual]] = False
        if not keep.all():
            self.left_out += int((~keep).sum())
            with self._problems.watch("buffer"):
                self._buffer.replace(events.where(keep))

    def move(self, moves: Mapping[int, Move]) -> None:
        """Move the events to the new level of the changed features.

        They are not dropped, because the relations between the features in them remain valid for training.
        """
        if self._buffer is None or not len(self):
            return
        events = self._buffer.contents()
        with self._problems.watch("buffer"):
            self._buffer.replace(BufferedRows(move_rows(events.rows, moves), events.breaks))

    def _log_habits(self, causes: set[int]) -> None:
        """Log each habit once, when its first events are learned from."""
        for cause in sorted(causes - self._habits_logged):
            feature = self._schema.features[cause] if cause >= 0 else "several"
            log.info("daily habit learned feature=%s", json.dumps(feature))
        self._habits_logged |= causes
