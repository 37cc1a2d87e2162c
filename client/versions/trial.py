"""A new version scores recent events in the shadow of the one at work, before it may replace it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from client.data.training_buffer import BufferedRows
from client.versions.drift import calibration
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.residuals import Residuals
from common.model.scoring import scored_by, window_starts
from common.model.sketch import ScoreSketch, SketchError
from common.model.threshold import Evidence, blended

ON_TRIAL = 4096
"""Newest normal events that two versions are compared on."""
MIN_WINDOWS = 100
"""Recent normal windows without which only the version itself is looked at."""
WORST_ERROR = 2.0
"""Times the mean error of the version at work."""
WORST_RATE = 0.02
"""Share of recent normal events that may lie above the new threshold, unless half as many do now."""


@dataclass(frozen=True)
class Limit:
    """How a client finds its threshold: its fixed value, or the rate of false alerts that is allowed."""

    value: float | None
    rate: float

    def of(self, fleet: ScoreSketch, own: Evidence) -> float:
        """The threshold by a version's scores in the fleet and here.

        Raises:
            SketchError: there is no score at all.
        """
        return self.value if self.value is not None else blended(fleet, own, self.rate)


@dataclass(frozen=True)
class TrialResult:
    """What a version's scores of the kept normal events say of it."""

    wrong: str | None
    """Why it must not replace the one at work."""
    windows: int = 0
    """That were scored."""
    scores: ScoreSketch = field(default_factory=ScoreSketch)
    calibration: bytes = b""
    """Of `client.versions.drift`."""


def run_trial(
    new: Manifest, kept: BufferedRows, limit: Limit, live: Manifest | None = None, live_threshold: float = 0.0
) -> TrialResult:
    """Score all that is kept by a version, and the newest of it by the one at work too.

    Args:
        new: The version on trial, its features in the order of the rows.
        kept: Normal events of this machine.
        limit: How its threshold will be found.
        live: The version at work, if there is one, its features in the same order.
        live_threshold: Its threshold.
    """
    found = rescored(new, kept)
    recent = found[-ON_TRIAL:]
    if not np.isfinite(found).all():
        return TrialResult(f"{int((~np.isfinite(found)).sum())} of {len(found)} recent scores are not finite")
    newest = kept.newest(ON_TRIAL)
    live_scores = rescored(live, newest) if live is not None else found[:0]
    sketch = ScoreSketch.of(found)
    try:
        threshold = limit.of(new.scores, Evidence(sketch))
    except SketchError as error:
        return TrialResult(str(error))
    # Scores that are weighed by a version's own residuals are near 1 whatever it is worth: errors are not.
    errors = (_error(new, newest), _error(live, newest)) if live is not None and len(live_scores) else None
    version = live.version if live else 0
    wrong = objection(recent, threshold, version, live_scores, live_threshold, errors)
    return TrialResult(wrong, len(found), sketch, calibration(found))


def rescored(manifest: Manifest, kept: BufferedRows) -> NDArray[np.float32]:
    """The scores of all whole windows of normal events by a version, shape (m,)."""
    scaling = manifest.settings.scaling
    scaled = Scaler.chosen(scaling, manifest.moments, manifest.moments).apply(kept.rows)
    starts = window_starts(kept.breaks, manifest.architecture.window)
    return scored_by(manifest, scaled, starts)


def _error(manifest: Manifest, kept: BufferedRows) -> float:
    """The mean squared reconstruction error of all whole windows, at least one, by a version."""
    return float(rescored(replace(manifest, residuals=Residuals()), kept).mean())


def objection(
    new_scores: NDArray[np.float32],
    new_threshold: float,
    live_version: int,
    live_scores: NDArray[np.float32],
    live_threshold: float,
    errors: tuple[float, float] | None = None,
) -> str | None:
    """Why a version must not replace the one at work; None if it may.

    Args:
        new_scores: Its scores of recent normal events, all finite.
        new_threshold: The threshold it would work with.
        live_version: The version at work, if there is one.
        live_scores: Its scores of the same events; none where no version is at work.
        live_threshold: Its threshold.
        errors: Mean reconstruction errors of both on these events; None: the means of the scores.
    """
    if len(new_scores) < MIN_WINDOWS:
        return None
    rate = float((new_scores > new_threshold).mean())
    live_rate = float((live_scores > live_threshold).mean()) if len(live_scores) else 0.0
    if rate > max(WORST_RATE, 2 * live_rate):
        return f"it would have raised alerts on {rate:.1%} of {len(new_scores)} recent normal events"
    if len(live_scores) >= MIN_WINDOWS:
        error, live_error = errors or (float(np.mean(new_scores)), float(np.mean(live_scores)))
        if error > WORST_ERROR * live_error:
            return (
                f"its mean error on {len(new_scores)} recent normal events is {error:.4g}, "
                f"{error / live_error:.1f} times that of version {live_version}"
            )
    return None
