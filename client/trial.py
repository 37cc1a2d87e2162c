"""A new version scores recent events in the shadow of the one at work, before it may replace it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.buffer import Kept
from common.manifest import Manifest
from common.moments import Scaler
from common.scoring import scores, window_starts
from common.settings import ScalingSettings

ENOUGH = 100
"""Recent normal windows without which only the version itself is looked at."""
WORST_ERROR = 2.0
"""Times the mean error of the version at work."""
WORST_RATE = 0.02
"""Share of recent normal events that may lie above the new threshold, unless half as many do now."""


def rescored(manifest: Manifest, kept: Kept) -> NDArray[np.float32]:
    """The scores of all whole windows of normal events by a version, shape (m,)."""
    scaling = ScalingSettings.model_validate(manifest.settings["scaling"])
    scaled = Scaler.chosen(scaling, manifest.moments, manifest.moments).apply(kept.rows)
    starts = window_starts(kept.breaks, manifest.architecture.window)
    return scores(manifest.architecture, manifest.weights, scaled, starts)


def objection(
    new: Manifest,
    new_scores: NDArray[np.float32],
    new_threshold: float,
    live: Manifest | None,
    live_scores: NDArray[np.float32],
    live_threshold: float,
) -> str | None:
    """Why a version must not replace the one at work; None if it may.

    Args:
        new: The version on trial.
        new_scores: Its scores of recent normal events.
        new_threshold: The threshold it would work with.
        live: The version at work, if there is one.
        live_scores: Its scores of the same events.
        live_threshold: Its threshold.
    """
    if live is not None and new.schema != live.schema:
        return f"its features are not those of the stream: {', '.join(new.schema.features[:8])}"
    if not np.isfinite(new_scores).all():
        return f"{int((~np.isfinite(new_scores)).sum())} of {len(new_scores)} recent scores are not finite"
    if len(new_scores) < ENOUGH:
        return None
    rate = float((new_scores > new_threshold).mean())
    live_rate = float((live_scores > live_threshold).mean()) if len(live_scores) else 0.0
    if rate > max(WORST_RATE, 2 * live_rate):
        return f"it would have raised alerts on {rate:.1%} of {len(new_scores)} recent normal events"
    if live is not None and len(live_scores) >= ENOUGH:
        error, live_error = float(np.mean(new_scores)), float(np.mean(live_scores))
        if error > WORST_ERROR * live_error:
            return (
                f"its mean error on {len(new_scores)} recent normal events is {error:.4g}, "
                f"{error / live_error:.1f} times that of version {live.version}"
            )
    return None
