"""What goes on around the live loop and may take its time: thresholds, new versions, training data, state."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from client.data.quarantine import QuarantineFilter, ReleasedEvents
from client.data.training_buffer import BufferedRows, TrainingBuffer
from client.detection.detector import Detector
from client.versions.drift import Drift
from client.versions.trial import Limit, TrialResult, run_trial
from client.versions.trial_process import Trial, TrialError, TrialProcess, TrialRequest
from client.versions.version_store import VersionStore
from common.budget import Budget
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError
from common.model.schema import SchemaError
from common.model.sketch import SketchError
from common.model.threshold import Evidence
from common.settings import Settings

log = logging.getLogger(__name__)

TICK_S = 0.25
SAVE_EVERY_S = 1.0
FIRST_INTERVAL_S = 1.0
"""Taken from one event to the next until it can be measured."""
MIN_TIMES = 8
"""Events without which the interval is not measured."""


class Spool(Protocol):
    """As much of an outbox as is needed before a position may be saved."""

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was posted is safe."""
        ...


class DetectorMaintenance:
    """Looks after a detector, a few times a second, in a thread of its own.

    Args:
        detector: Whose `recent` is read and whose version and threshold are set.
        settings: Sections `live`, `threshold` and `client`.
        folder: The client's state folder; it exists.
        store: Its versions.
        spools: What must be safe on disk before the stream's position is saved.
        fixed: The only version there is, on a machine that never trains; None: versions of the store.
        trial: How a version is tried before it is taken.
    """

    def __init__(
        self,
        detector: Detector,
        settings: Settings,
        folder: Path,
        store: VersionStore,
        spools: Sequence[Spool],
        fixed: Manifest | None = None,
        trial: Callable[[TrialRequest], Trial] = TrialProcess,
    ) -> None:
        self._detector = detector
        self._settings = settings
        self._folder = folder
        self._spools = spools
        self._fixed = fixed
        self._store = store
        self._pinned = store.pinned
        self._try = trial
        self._trial: _RunningTrial | None = None
        self._budget = Budget.parse(settings.threshold.budget)
        self._buffer: TrainingBuffer | None = None
        self._evidence = Evidence()
        self._incidents = 0
        self._drift = Drift(settings.live.drift_p)
        self._settling = QuarantineFilter(detector.recent, settings.live.settle)
        self._position: tuple[str, dict[str, Any]] | None = None
        self._saved: tuple[str, dict[str, Any]] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self.manifest: Manifest | None = None
        """The version at work, its features in the detector's order."""
        self.swaps = self.refusals = 0
        self.problems: dict[str, str] = {}
        """What is wrong now, by the part that it concerns."""

    @property
    def pinned(self) -> bool:
        """Whether an operator has rolled back to a version."""
        return self._pinned is not None

    @property
    def buffered(self) -> int:
        """Normal events that are kept to train on."""
        return len(self._buffer) if self._buffer is not None else 0

    @property
    def drifted(self) -> bool:
        """Whether the stream no longer looks as it did."""
        return self._drift.drifted

    def start(self) -> None:
        """Take up the version on disk, then work until `stop`."""
        with self._trouble("buffer"):
            self._open_buffer()
        self._boot()
        self._thread.start()

    def stop(self) -> None:
        """Do everything once more, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.tick(save=True)
        self._give_up()
        if self._buffer is not None:
            self._buffer.close()

    def reached(self, source: str, position: dict[str, Any]) -> None:
        """All events up to this position of the source were scored and their notices posted."""
        self._position = (source, position)

    def _run(self) -> None:
        ticks = 0
        while not self._stop.wait(TICK_S):
            ticks += 1
            try:
                self.tick(save=ticks % round(SAVE_EVERY_S / TICK_S) == 0)
                self.problems.pop("keeper", None)
            except Exception:  # the loop scores on; what failed is tried again
                log.exception("keeper failed")
                self.problems["keeper"] = "failed; see the log"

    def tick(self, save: bool) -> None:
        """Do everything once: what the thread does again and again.

        Args:
            save: Whether to write down where the stream has got to.
        """
        with self._trouble("buffer"):
            if self._buffer is None:
                self._open_buffer()
        self._settle()
        with self._trouble("store"):
            self._look_for_versions()
        self._tune()
        if save:
            with self._trouble("state"):
                self._save()

    def _trouble(self, part: str) -> _ProblemScope:
        return _ProblemScope(part, self.problems)

    def _open_buffer(self) -> None:
        live = self._settings.live
        self._buffer = TrainingBuffer(self._folder, self._detector.schema, live.keep_rows)
        write_atomic(self._folder / "schema.json", json.dumps(self._detector.schema.features).encode())
        if self._buffer.problem is not None:
            self.problems["buffer.ring"] = self._buffer.problem

    def _boot(self) -> None:
        manifest = self._fixed or self._store.current()
        if self._store.passed_over:
            self.problems["versions"] = "; ".join(self._store.passed_over)
        if manifest is None:
            return
        try:
            aligned = manifest.aligned(self._detector.schema)
            self._take(aligned, run_trial(aligned, self._kept(), self._limit()))
        except (SchemaError, SketchError) as error:
            self.problems["versions"] = f"version {manifest.version}: {error}"

    def _kept(self) -> BufferedRows:
        if self._buffer is not None:
            return self._buffer.contents()
        return BufferedRows.empty(len(self._detector.schema))

    def _settle(self) -> None:
        """Move events that are old enough to be known as normal into the buffer and the evidence."""
        settled = self._settling.release()
        if settled is None:
            return
        self._learn(settled)
        if self._buffer is not None and settled.normal.any():
            self._buffer.append(settled.rows[settled.normal], settled.breaks[settled.normal])

    def _learn(self, settled: ReleasedEvents) -> None:
        if self.manifest is None:
            return
        counts = np.isfinite(settled.scores) & (settled.versions == self.manifest.version)
        self._evidence.normal.add(settled.scores[counts & settled.normal])
        self._evidence.alerts = self._detector.incidents.started - self._incidents
        before = self._drift.drifted
        self._drift.add(settled.scores[counts])
        if self._drift.drifted != before:
            log.warning("drift drifted=%s version=%d", self._drift.drifted, self.manifest.version)
            with self._trouble("state"):
                self._store.drifted = self._drift.drifted

    def _look_for_versions(self) -> None:
        if self._fixed is not None:
            return
        pinned = self._store.pinned
        if pinned != self._pinned:
            self._pinned = pinned
            self._give_up()
            manifest = self._store.current()
            if manifest is not None and self._store.at_work is not None:
                self._put_on_trial(manifest, self._store.at_work, chosen=True)
        elif self._trial is not None:
            self._conclude(self._trial)
        elif pinned is None:
            try:
                candidate = self._store.candidate()
            except ManifestError as error:
                self._refused(f"a version on trial: {error}")
                return
            if candidate is not None:
                self._put_on_trial(candidate, self._store.on_trial)

    def _put_on_trial(self, manifest: Manifest, file: Path, chosen: bool = False) -> None:
        live = self._detector.live if self.manifest is not None else None
        beside = self._store.at_work if live is not None else None
        threshold = live.threshold if live is not None else 0.0
        case = TrialRequest(self._folder, self._detector.schema, file, self._limit(), beside, threshold)
        self._trial = _RunningTrial(manifest, self._try(case), chosen)
        self._conclude(self._trial)

    def _conclude(self, tried: _RunningTrial) -> None:
        """Take up a version whose trial has ended well, or that an operator has chosen, however it went."""
        try:
            findings = tried.trial.findings()
        except TrialError as error:
            findings = TrialResult(str(error))
        if findings is None:
            return
        self._give_up()
        manifest = tried.manifest
        if findings.wrong is not None and not tried.chosen:
            self._store.refuse(manifest, findings.wrong)
            self._refused(f"version {manifest.version}: {findings.wrong}")
            return
        if not tried.chosen:
            self._store.accept(manifest)
            self.swaps += 1
            self.problems.pop("version", None)
        self._take(manifest.aligned(self._detector.schema), findings)

    def _give_up(self) -> None:
        if self._trial is not None:
            self._trial.trial.end()
            self._trial = None

    def _refused(self, message: str) -> None:
        self.refusals += 1
        self.problems["version"] = f"refused {message}"
        log.error("version refused reason=%s", message)

    def _take(self, manifest: Manifest, findings: TrialResult) -> None:
        """Work with this version from now on: what its threshold rests on starts anew from its trial."""
        evidence = Evidence(findings.scores)
        threshold = self._limit().of(manifest.scores, evidence)
        self._evidence, self._incidents = evidence, self._detector.incidents.started
        self._drift = Drift(self._settings.live.drift_p, findings.calibration)
        with self._trouble("state"):
            self._store.drifted = False
        self.manifest = manifest
        self._detector.take(manifest, threshold)
        log.info(
            "version taken version=%d threshold=%.4g windows=%d",
            manifest.version, threshold, findings.windows,
        )  # fmt: skip

    def _tune(self) -> None:
        """Adapt the threshold to what the stream has shown, but never while an incident is open."""
        live = self._detector.live
        if live is not None and self.manifest is not None and not self._detector.incidents.open:
            live.threshold = self._limit().of(self.manifest.scores, self._evidence)

    def _limit(self) -> Limit:
        return Limit(self._settings.threshold.value, self._budget.rate(self.interval_s()))

    def interval_s(self) -> float:
        """Seconds from one event to the next: as set, or the median of the recent ones."""
        if self._settings.threshold.interval_s is not None:
            return self._settings.threshold.interval_s
        recent = self._detector.recent
        steps = np.diff(recent.since(recent.count - 1024).times)
        if len(steps) < MIN_TIMES:
            return FIRST_INTERVAL_S
        median = float(np.median(steps))
        typical = median if median > 0 else float(steps.mean())  # many came at once
        return typical if typical > 0 else FIRST_INTERVAL_S

    def _save(self) -> None:
        position = self._position
        if position is None or position == self._saved:
            return
        if all([spool.flush(SAVE_EVERY_S) for spool in self._spools]):
            source, place = position
            content = json.dumps({"source": source, "position": place}).encode()
            write_atomic(self._folder / "source.json", content)
            self._saved = position


@dataclass(frozen=True)
class _RunningTrial:
    manifest: Manifest
    trial: Trial
    chosen: bool
    """By an operator, whatever its trial says."""


class _ProblemScope:
    """Turns an operating-system error inside its block into a problem, and forgets it when there is none."""

    def __init__(self, part: str, problems: dict[str, str]) -> None:
        self._part, self._problems = part, problems

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError):
            if self._part not in self._problems:
                log.warning("trouble part=%s reason=%s", self._part, error)
            self._problems[self._part] = f"{self._part}: {error}"
            return True
        if error is None:
            self._problems.pop(self._part, None)
        return False
