"""The warm-up: a version of the fleet adapted to a machine by its own first rows, without training.

The first rows of a machine may contain a fault, which must not become normal. So the estimates are robust:
values far from the median are moved towards it, and rows in one or two stretches of outstanding scores are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from client.buffers.training_buffer import BufferedRows
from client.versions.own_statistics import with_own_residuals, with_own_scaling
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.scoring import ScoredWindows, score_windows, window_starts
from common.robust import MAD_TO_STD, SMALLEST

MIN_ROWS = 25
"""Usual number of rows from which a version is adapted first."""
MAX_ROWS = 8192
"""Largest number of rows that an estimate uses, the newest ones: it runs beside the event loop."""
CLIP = 3.0
"""Distance from the median, in robust standard deviations, to which values further away are moved."""
OUTSTANDING = 7.0
"""Distance of an outstanding log score from the median, in units of median minus lower quartile.

For normally distributed logarithms this is the outer fence of Tukey 1977. The upper quartile is not used: in
a short warm-up one fault can be in more than a quarter of all windows.
"""
MIN_DISTANCE = 0.12
"""Lower limit of that unit: among scores that hardly differ, each of them would be outstanding."""
MAX_STRETCHES = 2
"""Largest number of stretches of outstanding scores that count as faults; more are usual for the machine."""
MAX_LEFT_OUT = 0.5
"""Largest share of the rows that counts as faults."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WarmUp:
    """A version of the fleet, adapted by a machine's own rows."""

    manifest: Manifest
    """The personalised version."""
    normal: BufferedRows
    """The rows that it was estimated from, without those that count as faults."""


def first_estimate_rows(manifest: Manifest, setting: int | None) -> int:
    """Return the number of rows from which a version can be adapted: one window at least.

    Args:
        manifest: The version.
        setting: `live.warm_up`.
    """
    window = manifest.architecture.window
    return max(MIN_ROWS, window) if setting is None else max(setting, window)


def warm_up(fleet: Manifest, events: BufferedRows) -> WarmUp:
    """Adapt a version of the fleet to one machine by the machine's own first rows.

    Mean and spread are the machine's own as `scaling.by` says, and the residuals are blended with the fleet's
    by `scoring.prior`. The weights are the fleet's.

    Args:
        fleet: The version, its features in the order of the rows.
        events: The rows, at least one window; NaN where a value is missing.
    """
    events = events.newest(MAX_ROWS)
    normal = _without_faults(_scaled(fleet, events), events)
    manifest = _scaled(fleet, normal)
    own = _score(manifest, normal)[1]
    return WarmUp(replace(with_own_residuals(manifest, own.residuals), personalised=True), normal)


def robust_moments(rows: NDArray[np.float32], fleet: Moments) -> Moments:
    """Return a machine's moments, estimated so that single values far from the others have little effect.

    Values are moved to at most `CLIP` robust standard deviations from their median; a standard deviation is
    the larger one of the machine's, from its median absolute deviation, and the fleet's within clients.

    Source: Huber 1964, the mean of which this is one step.

    Args:
        rows: Shape (n, features), n >= 1; NaN where a value is missing.
        fleet: The fleet's moments.
    """
    spread = np.sqrt(fleet.within / np.maximum(fleet.counts, 1))
    values = np.where(np.isfinite(rows), rows.astype(np.float64), np.nan)
    # NumPy warns of a median of nothing.
    filled = np.where(np.isnan(values).all(axis=0), 0.0, values)
    median = np.nanmedian(filled, axis=0)
    reach = CLIP * np.maximum(MAD_TO_STD * np.nanmedian(np.abs(filled - median), axis=0), spread)
    near = Moments.of(np.clip(values, median - reach, median + reach))
    return msgspec.structs.replace(near, step=Moments.of(values).step)


def _scaled(fleet: Manifest, events: BufferedRows) -> Manifest:
    return with_own_scaling(fleet, robust_moments(events.rows, fleet.moments))


def _score(manifest: Manifest, events: BufferedRows) -> tuple[NDArray[np.int32], ScoredWindows]:
    """Return the last row of each unbroken window, and the windows' errors under a version."""
    window = manifest.architecture.window
    rows = manifest.scaler.apply(events.rows)
    starts = window_starts(rows, events.breaks, window)
    with np.errstate(over="ignore", invalid="ignore"):
        scored = score_windows(manifest.architecture, manifest.weights, rows, starts, manifest.precision)
    return starts + window - 1, scored


def _without_faults(manifest: Manifest, events: BufferedRows) -> BufferedRows:
    """Leave out the rows in stretches of outstanding scores, if these are few and short."""
    window = manifest.architecture.window
    ends, scored = _score(manifest, events)
    rows = np.flatnonzero(_outstanding(scored.scores))
    faulty = np.zeros(len(events.rows), np.bool_)
    if not len(rows):
        return events
    stretches = np.split(rows, np.flatnonzero(np.diff(rows) > window) + 1)
    for stretch in stretches:
        first, last = int(ends[stretch[0]]), int(ends[stretch[-1]])
        # A fault may begin before its scores stand out.
        faulty[max(0, first - window + 1) : last + 1] = True
    share = faulty.mean()
    if len(stretches) > MAX_STRETCHES or share > MAX_LEFT_OUT:
        return events
    kept = events.where(~faulty)
    return kept if len(window_starts(kept.rows, kept.breaks, window)) else events


def _outstanding(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which scores are outstandingly high among the others, shape (n,).

    >>> _outstanding(np.array([1.0, 1.1, 0.9, 1.05, 40.0], np.float32)).tolist()
    [False, False, False, False, True]
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return np.isposinf(scores)
    logs = np.log(np.maximum(np.where(finite, scores, np.float32(1)), SMALLEST))
    lower, median = np.quantile(logs[finite], (0.25, 0.5))
    outstanding: NDArray[np.bool_] = logs > median + OUTSTANDING * max(median - lower, MIN_DISTANCE)
    return np.isposinf(scores) | (finite & outstanding)
