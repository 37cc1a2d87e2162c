"""The progress of a client towards training: the events that it has and needs, also in the log."""

from __future__ import annotations

import logging
from pathlib import Path

from client.buffers.training_buffer import read_wanted
from common.learning import Learning, wanted_rows
from common.settings import Settings

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
"""Longest time between two log lines while the client learns; each doubling of the events is logged too."""


class LearningProgress:
    """The progress of one client towards training.

    Args:
        folder: The client's state folder, where the trainer records how many events it wants.
        settings: Sections `client`, `live`, `model`. The number follows from them until the trainer records
            it.
        features: Number of features of an event.
    """

    def __init__(self, folder: Path, settings: Settings, features: int) -> None:
        self._folder, self._margin = folder, settings.live.incident_margin
        # Only the trainer knows the number of rows of a data file.
        self._expected = (
            wanted_rows(settings.client.min_rows, settings.model.window, features)
            if settings.client.data is None
            else 0
        )
        self._first: tuple[int, float] | None = None
        """Events received, and the time, at the first update after the first event."""
        self._logged: tuple[int, float] | None = None
        """Events and time of the newest log line."""
        self.learning = Learning(0, self._expected)

    def update(self, buffered: int, received: int, now: float) -> None:
        """Record the progress, and log it when a log line is due.

        Args:
            buffered: Normal events in the training buffer.
            received: Events of the stream since the process started.
            now: Seconds on a monotonic clock.
        """
        was_done, wanted = self.learning.done, read_wanted(self._folder)
        if self._first is None and received:
            self._first = (received, now)
        per_s = None
        if self._first is not None and now > self._first[1]:
            per_s = (received - self._first[0]) / (now - self._first[1])
        self.learning = Learning(
            buffered,
            self._expected if wanted is None else wanted,
            per_s,
            held_back=max(0, self._margin - received),
        )
        self._log(was_done, now)

    def _log(self, was_done: bool, now: float) -> None:
        learning = self.learning
        if learning.done:
            if not was_done:
                log.info("%s", learning)
            return
        if self._logged is not None:
            rows, at = self._logged
            if now < at + LOG_EVERY_S and learning.rows < max(1, 2 * rows):
                return
        self._logged = (learning.rows, now)
        log.info("%s", learning)
