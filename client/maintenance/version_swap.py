"""Takes new model versions: each has to pass a trial on this client's normal events first.

A version that no client has personalised is adapted to this machine before it scores an event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.buffers.training_buffer import BufferedRows
from client.detection.detector import Detector
from client.maintenance.problems import Problems
from client.maintenance.threshold_tuning import ThresholdTuning
from client.maintenance.warm_up_schedule import WarmUpSchedule
from client.versions.trial import TrialResult, run_trial
from client.versions.trial_process import Trial, TrialError, TrialProcess, TrialRequest
from client.versions.version_store import VersionStore
from common.model.histogram import HistogramError
from common.model.manifest import Manifest, ManifestError
from common.model.schema import SchemaError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _RunningTrial:
    manifest: Manifest
    trial: Trial
    rollback: bool
    """Whether an operator has chosen the version: then it is used, whatever the result of the trial."""


class VersionSwap:
    """Runs trials of offered versions, and makes the detector use those that pass.

    Args:
        detector: Gets the versions.
        tuning: Sets the first threshold of each version.
        warm_up: Adapts versions of the fleet to this machine.
        store: Versions on disk. The trainer offers new ones, an operator pins earlier ones.
        folder: The client's state folder, for the trial to read the training buffer from.
        problems: Gets a problem for each refused or damaged version.
        trial: Starts a trial.
    """

    def __init__(
        self,
        detector: Detector,
        tuning: ThresholdTuning,
        warm_up: WarmUpSchedule,
        store: VersionStore,
        folder: Path,
        problems: Problems,
        trial: Callable[[TrialRequest], Trial] = TrialProcess,
    ) -> None:
        self._detector, self._tuning, self._store = detector, tuning, store
        self._warm_up, self._folder, self._problems, self._start_trial = warm_up, folder, problems, trial
        self._pinned = store.pinned
        self._running: _RunningTrial | None = None
        self._estimate: Manifest | None = None
        """The last version that `adapt` activated, until another version is taken."""
        self.swaps = self.refusals = 0

    @property
    def pinned(self) -> bool:
        """Whether an operator has rolled back to an earlier version."""
        return self._pinned is not None

    def start(self, fixed: Manifest | None, rows: BufferedRows) -> None:
        """Activate the version to start with, if there is one.

        Args:
            fixed: The version to use; None: the current one of the store.
            rows: Normal events of this client, to calibrate the threshold on.
        """
        manifest = fixed or self._store.current()
        if self._store.skipped:
            self._problems.set("versions", "; ".join(self._store.skipped))
        if manifest is None:
            return
        try:
            aligned = manifest.aligned(self._detector.schema)
            if aligned.personalised:
                self._activate(aligned, run_trial(aligned, rows, self._tuning.rule()))
            else:
                self._warm_up.begin(aligned)
                self.adapt(rows)
        except (SchemaError, HistogramError) as error:
            self._problems.set("versions", f"version {manifest.version}: {error}")

    def advance(self) -> None:
        """Do the next step: follow a rollback, conclude the running trial, or start one of a new version."""
        pinned = self._store.pinned
        if pinned != self._pinned:
            self._pinned = pinned
            self.cancel()
            manifest = self._store.current()
            if manifest is not None and self._store.current_file is not None:
                self._try(manifest, self._store.current_file, rollback=True)
        elif self._running is not None:
            self._conclude(self._running)
        elif pinned is None:
            try:
                candidate = self._store.candidate()
            except ManifestError as error:
                self._record_refusal(f"a version on trial: {error}")
                return
            if candidate is not None:
                self._try(candidate, self._store.trial_file)

    def adapt(self, rows: BufferedRows) -> None:
        """Activate the version of the fleet as this machine's rows adapt it, if an estimate is due.

        Args:
            rows: Normal events of this client that have been released.
        """
        warm = self._warm_up.estimate(rows)
        if warm is None:
            return
        active = self._detector.active
        if active is not None and active.manifest is self._estimate:
            self._detector.activate(warm.manifest, self._tuning.extend(warm.manifest))
        else:
            current, threshold = (active.manifest, active.threshold) if active is not None else (None, 0.0)
            trial = run_trial(warm.manifest, warm.normal, self._tuning.rule(), current, threshold)
            self._activate(warm.manifest, trial)
        self._estimate = warm.manifest

    def cancel(self) -> None:
        """End the running trial, if there is one, without a result."""
        if self._running is not None:
            self._running.trial.close()
            self._running = None

    def _try(self, manifest: Manifest, file: Path, rollback: bool = False) -> None:
        active = self._detector.active
        request = TrialRequest(
            folder=self._folder,
            schema=self._detector.schema,
            new=file,
            rule=self._tuning.rule(),
            current=self._store.current_file if active is not None else None,
            current_threshold=active.threshold if active is not None else 0.0,
        )
        self._running = _RunningTrial(manifest, self._start_trial(request), rollback)
        self._conclude(self._running)

    def _conclude(self, running: _RunningTrial) -> None:
        """Activate or refuse the version, if its trial is over."""
        try:
            result = running.trial.result()
        except TrialError as error:
            result = TrialResult(str(error))
        if result is None:
            return
        self.cancel()
        manifest = running.manifest
        # A first version is better than none: a trial refuses a version only if another one is in use.
        usable = result.windows > 0 and self._detector.active is None
        if result.rejection is not None and not running.rollback and not usable:
            self._store.refuse(manifest, result.rejection)
            self._record_refusal(f"version {manifest.version}: {result.rejection}")
            return
        if not running.rollback:
            self._store.accept(manifest)
            self.swaps += 1
            self._problems.clear("version")
        aligned = manifest.aligned(self._detector.schema)
        self._estimate = None
        if aligned.personalised:
            self._warm_up.end()
            self._activate(aligned, result)
        else:
            self._warm_up.begin(aligned)

    def _record_refusal(self, message: str) -> None:
        self.refusals += 1
        self._problems.set("version", f"refused {message}")
        log.error("version refused reason=%s", message)

    def _activate(self, manifest: Manifest, trial: TrialResult) -> None:
        threshold = self._tuning.restart(manifest, trial)
        self._detector.activate(manifest, threshold)
        log.info(
            "version in use version=%d threshold=%.4g windows=%d",
            manifest.version, threshold.value, trial.windows,
        )  # fmt: skip
