"""The trial of a new version beside the version in use: are its alerts too many, and does it miss faults?

Both score recent normal events, and the same events with synthetic faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.buffers.training_buffer import BufferedRows
from common.model.histogram import HistogramError, ScoreHistogram
from common.model.manifest import Manifest
from common.model.scoring import score_windows, version_scores, window_starts
from common.model.synthetic_faults import SyntheticFaults
from common.model.threshold import robust_limit, starting_threshold

MAX_COMPARED_EVENTS = 4096
"""Newest normal events on which the two versions are compared."""
MIN_WINDOWS = 100
"""With fewer windows of normal events there is no comparison."""
MAX_ERROR_RATIO = 2.0
"""Largest mean error of a new version, as a multiple of that of the version in use."""
MAX_ALERT_SHARE = 0.02
"""Largest share of normal events that may exceed the new threshold.

Up to twice the share that exceeds the current threshold is allowed too.
"""
FAULT_WINDOWS = 32
"""Windows of recent normal events that synthetic faults are put into."""


@dataclass(frozen=True)
class ThresholdRule:
    """The rule for the first threshold of a version: a fixed value, or a rate of false incidents."""

    value: float | None
    """The fixed threshold; None: the threshold follows from `rate`."""
    rate: float
    """Share of normal events that may be above the threshold."""

    def start(self, version: Manifest, own: ScoreHistogram) -> tuple[float, float, float]:
        """Return the first threshold for a version, its lower and its upper bound (`starting_threshold`).

        Args:
            version: It has the scores of the fleet.
            own: Its scores on this client.

        Raises:
            HistogramError: there are no scores.
        """
        if self.value is not None:
            return self.value, self.value, self.value
        return starting_threshold(version.scores, own, self.rate, surprisals=version.ensemble is not None)


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial."""

    rejection: str | None
    """The reason why the version must not be used; None if it may."""
    windows: int = 0
    """Windows that were scored."""
    scores: ScoreHistogram = field(default_factory=ScoreHistogram.empty)
    """The version's scores of the buffered normal events."""
    scale: float | None = None
    """Ratio of the version's scores to those of the version in use, on the same events; None: unknown.

    The threshold is multiplied by it when the version is taken up. It is that of the 95 % quantiles, which
    lie near the tail and which a few unusual events do not move.
    """


def run_trial(
    new: Manifest,
    events: BufferedRows,
    rule: ThresholdRule,
    current: Manifest | None = None,
    current_threshold: float = 0.0,
    try_faults: bool = False,
) -> TrialResult:
    """Score all buffered events by a new version, and the newest also by the version in use.

    Args:
        new: The version on trial, its features in the order of the rows.
        events: Normal events of this client.
        rule: How the new version's threshold is set.
        current: The version in use, its features in the same order; None: there is none, and the new one is
            not refused unless its scores are unusable.
        current_threshold: The threshold in use.
        try_faults: Whether both versions score synthetic faults, too. It takes some tenths of a second.
    """
    scores = buffer_scores(new, events)
    if np.isinf(scores).any():
        return TrialResult(f"{int(np.isinf(scores).sum())} of {len(scores)} recent scores are not finite")
    if current is None:  # no version has scored these rows before
        scores = scores[scores <= robust_limit(ScoreHistogram.of(scores))]
    own = ScoreHistogram.of(scores)
    try:
        threshold = rule.start(new, own)[0]
    except HistogramError as error:
        return TrialResult(str(error))
    if current is None:  # any version is better than none
        return TrialResult(None, len(scores), own)
    newest = events.newest(MAX_COMPARED_EVENTS)
    new_scores = buffer_scores(new, newest)
    current_scores = buffer_scores(current, newest)
    scale, errors = None, None
    if len(current_scores) and len(new_scores):
        scale = _ratio(new_scores, current_scores)
        threshold = rule.value if rule.value is not None else max(threshold, scale * current_threshold)
        # Scores weighted by a version's own residuals are near 1 for good and bad versions alike, and errors
        # in a version's own scale are small if that is coarse; errors in one scale can be compared.
        errors = (_mean_error(new, newest, current), _mean_error(current, newest, current))
    rejection = rejection_reason(
        new_scores, threshold, current.version, current_scores, current_threshold, errors
    )
    if rejection is None and try_faults:
        rejection = blindness(new, threshold, current, current_threshold, newest)
    return TrialResult(rejection, len(scores), own, scale)


def _ratio(new: NDArray[np.float32], current: NDArray[np.float32]) -> float:
    """Return the ratio of the 95 % quantiles of two sets of scores; 1 if one of them is 0."""
    of_new, of_current = (float(np.quantile(scores, 0.95)) for scores in (new, current))
    return of_new / of_current if of_new > 0 and of_current > 0 else 1.0


def buffer_scores(manifest: Manifest, events: BufferedRows) -> NDArray[np.float32]:
    """Return a version's scores of all windows of buffered events that can be scored, shape (windows,)."""
    rows = manifest.scaler.apply(events.rows)
    return version_scores(manifest, rows, window_starts(rows, events.breaks, manifest.architecture.window))


def _mean_error(manifest: Manifest, events: BufferedRows, unit: Manifest) -> float:
    """Return the mean squared reconstruction error of the unbroken windows, at least one.

    Args:
        manifest: The version.
        events: Normal events.
        unit: The version whose scaled units the error is in.
    """
    shape, scaler = manifest.architecture, manifest.scaler
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.square(scaler.std / unit.scaler.std, dtype=np.float32)
        factors = np.tile(ratio, shape.window) * shape.recency_weights(manifest.settings.scoring.decay)
        rows = scaler.apply(events.rows)
        starts = window_starts(rows, events.breaks, shape.window)
        return float(score_windows(shape, manifest.weights, rows, starts, factors).scores.mean())


def rejection_reason(
    new_scores: NDArray[np.float32],
    new_threshold: float,
    current_version: int,
    current_scores: NDArray[np.float32],
    current_threshold: float,
    errors: tuple[float, float] | None = None,
) -> str | None:
    """Return why a new version must not replace the one in use; None if it may.

    Args:
        new_scores: The new version's scores of recent normal events, all finite.
        new_threshold: The threshold it would be used with.
        current_version: Number of the version in use; 0 if there is none.
        current_scores: Its scores of the same events; empty if there is no version in use.
        current_threshold: Its threshold.
        errors: Mean reconstruction errors of the new and the current version on these events. None: the mean
            scores are compared.
    """
    if len(new_scores) < MIN_WINDOWS:
        return None
    share = float((new_scores > new_threshold).mean())
    current_share = float((current_scores > current_threshold).mean()) if len(current_scores) else 0.0
    if share > max(MAX_ALERT_SHARE, 2 * current_share):
        return f"it would have raised alerts on {share:.1%} of {len(new_scores)} recent normal events"
    if len(current_scores) >= MIN_WINDOWS:
        error, current_error = errors or (float(np.mean(new_scores)), float(np.mean(current_scores)))
        if error > MAX_ERROR_RATIO * current_error:
            return (
                f"its mean error on {len(new_scores)} recent normal events is {error:.4g}, "
                f"{error / current_error:.1f} times that of version {current_version}"
            )
    return None


def blindness(
    new: Manifest, new_threshold: float, current: Manifest, current_threshold: float, events: BufferedRows
) -> str | None:
    """Return which faults a new version no longer finds; None if it finds them, or the events are too few.

    Args:
        new: The new version, its features in the order of the rows.
        new_threshold: The threshold it would be used with.
        current: The version in use, its features in the same order.
        current_threshold: Its threshold.
        events: Recent normal events.
    """
    window = current.architecture.window
    starts = window_starts(events.rows, events.breaks, window)
    if len(starts) < MIN_WINDOWS or new.architecture.window != window:
        return None
    seed = new.version
    chosen = np.sort(np.random.default_rng(seed).choice(starts, FAULT_WINDOWS, replace=False))
    faults = SyntheticFaults.of(events.rows[chosen[:, None] + np.arange(window)], seed, events.rows)
    limits = faults.detection_limits(current, current_threshold)
    lost = faults.lost_by(new, new_threshold, limits)
    lost = lost or faults.clipped_by(new, new_threshold, current, current_threshold)
    return f"it does not find {lost} that version {current.version} finds" if lost else None
