"""The maintenance thread: work beside the event loop that may take its time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client.buffers.daily_habits import DailyHabits
from client.buffers.held_back import HeldBackEvents
from client.detection.detector import Detector
from client.maintenance.adaptation import Adaptation
from client.maintenance.checkpoint import SAVE_EVERY_S, Checkpoint
from client.maintenance.learned_rows import LearnedRows
from client.maintenance.learning_progress import LearningProgress
from client.maintenance.problems import Problems
from client.maintenance.threshold_tuning import ThresholdTuning
from client.maintenance.version_swap import VersionSwap
from client.maintenance.warm_up_schedule import WarmUpSchedule
from client.versions.trial_process import Trial, TrialProcess, TrialRequest
from client.versions.version_store import VersionStore
from common.model.manifest import Manifest
from common.settings import Settings

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Time between two ticks of the thread."""
MAX_TICK_S = 10.0
"""Longest time that the event loop waits for the end of a tick."""
TICK_EVENTS = 64
"""Events of a recording that are scored between two ticks: scoring them takes about as long as a tick."""


class DetectorMaintenance:
    """Runs the learning, adaptation, version swap, threshold tuning and checkpoint of a detector.

    Each of them has a step that returns soon; a tick takes all steps, one after the other. The thread ticks
    every `TICK_S`, and when the event loop asks for a tick.

    Args:
        detector: The detector to maintain.
        settings: Sections `live`, `threshold` and `client`.
        folder: The client's state folder, which exists.
        store: The client's versions.
        checkpoint: Position in the stream; None: it is not saved.
        fixed: The only version to use, on a client that never trains; None: the versions of the store.
        trial: Starts a trial of a new version.
        recording: Whether the stream is a file that may be read far faster than it was made: then the event
            loop waits for a tick after every `TICK_EVENTS`.
    """

    def __init__(
        self,
        detector: Detector,
        settings: Settings,
        folder: Path,
        store: VersionStore,
        checkpoint: Checkpoint | None = None,
        fixed: Manifest | None = None,
        trial: Callable[[TrialRequest], Trial] = TrialProcess,
        recording: bool = False,
    ) -> None:
        self._recording = recording
        self._ticked_at = 0
        """Number of events that were scored before the last tick."""
        self._detector, self._folder, self._fixed = detector, folder, fixed
        self._checkpoint, self._store = checkpoint, store
        self._habits = DailyHabits(settings.live.habit_days)
        self._held_back = HeldBackEvents(detector.recent, settings.live.incident_margin, self._habits)
        self._stop, self._wake, self._ticked = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
        self.progress = LearningProgress(folder, settings, len(detector.schema)) if fixed is None else None
        """The client's progress towards training; None for one that never trains."""
        self.problems = Problems()
        self.learned = LearnedRows(
            folder, detector.schema, settings.live.keep_rows, self.problems, self._habits
        )
        self.tuning = ThresholdTuning(detector, settings, store, self.problems)
        self.warm_up = WarmUpSchedule(detector.recent, self._held_back, settings.live.warm_up)
        self.versions = VersionSwap(detector, self.tuning, self.warm_up, store, folder, self.problems, trial)
        self.adaptation = Adaptation(
            detector, self.tuning, self.learned, store, folder, fixed.hash if fixed is not None else ""
        )

    def start(self) -> None:
        """Activate the version on disk, then start the thread."""
        self._habits.load(self._folder, self._detector.schema)
        self.learned.open()
        self.warm_up.restored = len(self.learned)
        fixed = self._fixed
        if fixed is not None and self.adaptation.regime.moves:
            fixed = self._store.current() or fixed  # the version that was adapted before a restart
        self.versions.start(fixed, self.learned.contents())
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, tick once more, and write everything to disk."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.tick(save=True)
        self.versions.cancel()
        self.learned.close()

    def await_allowance(self) -> int | None:
        """Wait until more events may be scored, and return how many before the next call.

        If an estimate of the warm-up is due, it comes before the next event. Of a recording at most
        `TICK_EVENTS` are scored between two ticks, so that the incidents in a file do not depend on how fast
        the file is read.

        Returns:
            The largest number of events; None: any number.
        """
        if self._until_tick() == 0:
            self.await_tick()
        return self._until_tick()

    def await_tick(self) -> None:
        """Wake the thread for a tick, and wait for its end, at most `MAX_TICK_S`."""
        if self._thread.is_alive():
            self._ticked.clear()
            self._wake.set()
            self._ticked.wait(MAX_TICK_S)

    def _until_tick(self) -> int | None:
        """Return the number of events that may be scored before a tick; None: any number."""
        limits = [self.warm_up.until_due]
        if self._recording:
            limits.append(max(0, self._ticked_at + TICK_EVENTS - self._detector.recent.count))
        return min((limit for limit in limits if limit is not None), default=None)

    def tick(self, save: bool) -> None:
        """Take the step of each part once, as the thread does every `TICK_S`.

        Args:
            save: Whether to save the checkpoint.
        """
        self._ticked_at = self._detector.recent.count
        self.learned.open()
        if (events := self._held_back.release()) is not None:
            self.tuning.learn(events)
            self.learned.add(events, self.tuning.scores)
        with self.problems.watch("regime"):
            if self.adaptation.advance():
                self.versions.cancel()
                self.warm_up.end()
        if self.progress is not None:
            self.progress.update(len(self.learned), self._detector.recent.count, time.monotonic())
        self._advance_versions()
        self.tuning.update()
        if save:
            with self.problems.watch("state"):
                self._habits.save(self._folder, self._detector.schema)
                if self._checkpoint is not None:
                    self._checkpoint.save()

    def _run(self) -> None:
        next_save = time.monotonic() + SAVE_EVERY_S
        while not self._stop.is_set():
            woken = self._wake.wait(TICK_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            save = time.monotonic() >= next_save
            if save:
                next_save = time.monotonic() + SAVE_EVERY_S
            try:
                self.tick(save)
                self.problems.clear("maintenance")
            except Exception:  # the event loop continues without maintenance, and the next tick tries again
                log.exception("maintenance failed")
                self.problems.set("maintenance", "maintenance failed; see the log")
            if woken:
                self._ticked.set()

    def _advance_versions(self) -> None:
        had_no_version = self._detector.active is None
        if self._fixed is None:
            with self.problems.watch("store"):
                self.versions.advance()
        if self.warm_up.until_due == 0:
            self.versions.adapt(self.learned.contents())
        if had_no_version and self._detector.active is not None:
            self.learned.clean(self._detector.active.manifest)
