"""Bounds the threshold by the scores of this client's normal events, and detects drift of the stream."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from client.buffers.held_back import ReleasedEvents
from client.detection.adaptive_threshold import AdaptiveThreshold
from client.detection.detector import Detector
from client.maintenance.evidence import Evidence
from client.maintenance.next_threshold import extended_threshold, next_threshold, regime_scale
from client.maintenance.problems import Problems
from client.versions.drift import Drift
from client.versions.trial import ThresholdRule, TrialResult
from client.versions.version_store import VersionStore
from common.budget import Budget
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.threshold import robust_limit
from common.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_S = 1.0
"""Interval between events that is assumed until it can be measured."""


class ThresholdTuning:
    """Collects scores of normal events under the active version; they bound its threshold.

    The threshold itself rises and falls with the incidents (`AdaptiveThreshold`), in the detector.

    Args:
        detector: Its active version gets the bounds and the budget's rate.
        settings: Sections `threshold` and `live`.
        store: Records drift for the trainer.
        problems: Gets a problem when drift cannot be recorded.
    """

    def __init__(
        self, detector: Detector, settings: Settings, store: VersionStore, problems: Problems
    ) -> None:
        self._detector, self._store, self._problems = detector, store, problems
        self._fixed, self._interval_s = settings.threshold.value, settings.threshold.interval_s
        self._budget_text = settings.threshold.budget
        self._budget = Budget.parse(settings.threshold.budget)
        self._drift_p = settings.live.drift_p
        self._drift = Drift(self._drift_p)
        self.scores = ScoreHistogram.empty()
        """Scores of normal events of this client under the active version."""

    @property
    def drifted(self) -> bool:
        """Whether the recent scores differ from those at calibration."""
        return self._drift.drifted

    @property
    def evidence(self) -> Evidence:
        """The time that the scores cover, compared with the budget."""
        return Evidence(self._budget_text, self.scores.count, self.interval_s())

    def restart(self, manifest: Manifest, trial: TrialResult) -> AdaptiveThreshold:
        """Restart for a version that is about to become active; return its threshold (`next_threshold`).

        Args:
            manifest: The version.
            trial: Its scores of this client's normal events.

        Raises:
            HistogramError: neither the version nor the trial has a score.
        """
        before = active.limit if (active := self._detector.active) is not None else None
        threshold = next_threshold(before, trial.scale, self.rule(), manifest, trial.scores)
        self._restart(trial.scores, Drift(self._drift_p, trial.scores))
        return threshold

    def extend(self, manifest: Manifest) -> AdaptiveThreshold:
        """Continue with the active version after its estimate from more rows of this machine.

        The scores so far are kept: each is of an event that the version was not adapted to, so they represent
        future events better than the scores of the rows that the version was estimated from.

        Args:
            manifest: The version, estimated again.

        Returns:
            Its threshold (`extended_threshold`).

        Raises:
            ValueError: there is no active version.
        """
        active = self._detector.active
        if active is None:
            raise ValueError("there is no active version")
        self._restart(self.scores, Drift(self._drift_p))
        return extended_threshold(active.limit, self.rule(), manifest, self.scores)

    def rebase(self, scores: NDArray[np.float32]) -> AdaptiveThreshold:
        """Restart for the active version, adapted to a changed machine; return its threshold.

        The threshold is multiplied by the `regime_scale`. Scores beyond the robust limit are not used: they
        may be of faults during the change.

        Args:
            scores: The adapted version's scores of the rows since the change, shape (n,), all finite.

        Raises:
            ValueError: there is no active version.
        """
        active = self._detector.active
        if active is None:
            raise ValueError("there is no active version")
        if not len(scores):
            return active.limit
        usual = scores[scores <= robust_limit(ScoreHistogram.of(scores))]
        after = ScoreHistogram.of(usual if len(usual) else scores)  # equal scores can all be above the limit
        scale = regime_scale(self.scores, after)
        self._restart(after, Drift(self._drift_p, after))
        return next_threshold(active.limit, scale, self.rule(), active.manifest, after)

    def learn(self, events: ReleasedEvents) -> None:
        """Add the scores of events that have been released, if the active version has scored them."""
        active = self._detector.active
        if active is None:
            return
        usable = np.isfinite(events.scores) & (events.versions == active.manifest.version)
        self.scores = self.scores.merge(ScoreHistogram.of(events.scores[usable & events.normal]))
        before = self.drifted
        self._drift.add(events.scores[usable])
        if self.drifted != before:
            log.warning("drift drifted=%s version=%d", self.drifted, active.manifest.version)
            self._record_drift()

    def update(self) -> None:
        """Set the bounds, the rate and the evidence of the threshold from the scores so far."""
        active = self._detector.active
        if active is not None and self._fixed is None and self.scores.count:
            rule = self.rule()
            _, *bounds = rule.start(active.manifest, self.scores)
            active.limit.bounds, active.limit.rate = (bounds[0], bounds[1]), rule.rate
            active.limit.covered = self.scores.count * rule.rate

    def rule(self) -> ThresholdRule:
        """Return the rule that thresholds are set by."""
        return ThresholdRule(self._fixed, self._budget.rate(self.interval_s()))

    def interval_s(self) -> float:
        """Return the seconds between two events: the setting, or the usual interval of the newest events."""
        if self._interval_s is not None:
            return self._interval_s
        return self._detector.recent.interval_s or DEFAULT_INTERVAL_S

    def _restart(self, scores: ScoreHistogram, drift: Drift) -> None:
        self.scores, self._drift = scores, drift
        self._record_drift()

    def _record_drift(self) -> None:
        with self._problems.watch("state"):
            self._store.drifted = self.drifted
