"""Adapts the threshold to the scores of this client's stream, and detects drift of the stream."""

from __future__ import annotations

import logging

import numpy as np

from client.data.quarantine import ReleasedEvents
from client.detection.detector import Detector
from client.service.problems import Problems
from client.versions.drift import Drift
from client.versions.trial import ThresholdRule, TrialResult
from client.versions.version_store import VersionStore
from common.budget import Budget
from common.model.manifest import Manifest
from common.model.threshold import ClientScores
from common.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_S = 1.0
"""Interval between events that is assumed until it can be measured."""
MIN_INTERVALS = 8
"""Number of intervals that a measurement needs."""
MAX_INTERVALS = 1023
"""Number of intervals, the newest, that a measurement uses."""


class ThresholdTuning:
    """Collects scores of normal events under the active version, and sets its threshold from them.

    Args:
        detector: Its active version gets the threshold.
        settings: Sections `threshold` and `live`.
        store: Records drift for the trainer.
        problems: Gets a problem when drift cannot be recorded.
    """

    def __init__(
        self, detector: Detector, settings: Settings, store: VersionStore, problems: Problems
    ) -> None:
        self._detector, self._store, self._problems = detector, store, problems
        self._fixed, self._interval_s = settings.threshold.value, settings.threshold.interval_s
        self._budget = Budget.parse(settings.threshold.budget)
        self._drift_p = settings.live.drift_p
        self._drift = Drift(self._drift_p)
        self._evidence = ClientScores()
        self._incidents_before = 0
        """Incidents that had started when the active version was taken."""

    @property
    def drifted(self) -> bool:
        """Whether the recent scores differ from those at calibration."""
        return self._drift.drifted

    def restart(self, manifest: Manifest, trial: TrialResult) -> float:
        """Start anew for a version that is about to become active; return its first threshold.

        Args:
            manifest: The version.
            trial: Its scores of this client's normal events.

        Raises:
            SketchError: neither the version nor the trial has a score.
        """
        evidence = ClientScores(trial.scores)
        threshold = self.rule().threshold(manifest.scores, evidence)
        self._evidence, self._incidents_before = evidence, self._detector.incidents.started
        self._drift = Drift(self._drift_p, trial.calibration)
        self._record_drift()
        return threshold

    def learn(self, events: ReleasedEvents) -> None:
        """Add the scores of events that have left quarantine, as far as the active version gave them."""
        active = self._detector.active
        if active is None:
            return
        usable = np.isfinite(events.scores) & (events.versions == active.manifest.version)
        self._evidence.normal.add(events.scores[usable & events.normal])
        self._evidence.alerts = self._detector.incidents.started - self._incidents_before
        before = self.drifted
        self._drift.add(events.scores[usable])
        if self.drifted != before:
            log.warning("drift drifted=%s version=%d", self.drifted, active.manifest.version)
            self._record_drift()

    def update(self) -> None:
        """Set the threshold of the active version, except during an incident."""
        active = self._detector.active
        if active is not None and not self._detector.incidents.open:
            active.threshold = self.rule().threshold(active.manifest.scores, self._evidence)

    def rule(self) -> ThresholdRule:
        """Return the rule by which thresholds are set now."""
        return ThresholdRule(self._fixed, self._budget.rate(self.interval_s()))

    def interval_s(self) -> float:
        """Return the seconds between two events: the setting, or the median of the recent intervals."""
        if self._interval_s is not None:
            return self._interval_s
        recent = self._detector.recent
        steps = np.diff(recent.since(recent.count - MAX_INTERVALS - 1).times)
        if len(steps) < MIN_INTERVALS:
            return DEFAULT_INTERVAL_S
        median = float(np.median(steps))
        typical = median if median > 0 else float(steps.mean())  # events that come in bursts have median 0
        return typical if typical > 0 else DEFAULT_INTERVAL_S

    def _record_drift(self) -> None:
        with self._problems.watch("state"):
            self._store.drifted = self.drifted
