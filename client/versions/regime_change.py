"""Adapting a version to a lasting change of the machine, from the rows since the change."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.buffers.regime import Move, move_moments
from client.buffers.training_buffer import BufferedRows
from client.versions.trial import buffer_scores
from common.detectors.autoencoder import window_errors
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.scoring import squared_errors, window_starts
from common.robust import MAD_TO_STD

Rows = NDArray[np.float32]

MAX_CHANGED = 5
"""Largest number of features that one change moves."""
MAX_SCORE_LEFT = 0.9
"""Largest share of the median score that a useful move leaves."""
MAX_USUAL_RATIO = 1.5
"""Largest median score, as a multiple of the usual one, that needs no further move."""
MIN_SPREAD_ROWS = 100
"""Smallest number of rows before and after a change with which a change of a feature's spread is measured."""
MAX_SAME_SPREAD = 2.0
"""Largest ratio of the spreads before and after a change, or its inverse, at which they count as the same."""
MAX_WINDOWS = 512
"""Windows, spread evenly over the rows, that a change is measured on."""
_GRID = 33
"""Number of levels that are tried for a feature in each refinement."""
_REFINEMENTS = 3
"""Number of grids for a level, each around the best one so far, and finer."""
_SWEEPS = 3
"""Times that the level of each of several moved features is sought again."""
_TRIMMED = 0.95
"""Quantile at which errors are cut off, so that a fault within the change is not part of the usual error."""


@dataclass(frozen=True, eq=False)
class AdaptedVersion:
    """A version that is adapted to a lasting change of a machine."""

    manifest: Manifest
    moves: dict[int, Move]
    """The lasting changes, by position of the feature."""


def adapt(
    manifest: Manifest,
    lasting: BufferedRows,
    before: BufferedRows,
    features: Collection[int],
    usual: float = 1.0,
) -> AdaptedVersion:
    """Adapt a version to the rows since a change.

    Features are moved one after the other, the one with the largest error first, to the level at which the
    median score of the rows is smallest. The levels of several are then sought again, as the first were found
    while the others were at their old ones. The difference of the medians before and since the change is not
    used, because these rows may be of different hours of a day. The median of the scores is robust against
    faults during the change (Huber 1981). If the scores stay larger than usual, the errors of the features
    with the largest ones become their usual errors: the model cannot reproduce how these features vary now.

    Args:
        manifest: The version in use.
        lasting: The rows since the change began, at least one, in the order of the version's features.
        before: Normal rows from before the change; may be empty.
        features: Positions of the features that explained the change when it began: these are moved by their
            medians if the rows are less than a window.
        usual: The median score of normal events before the change.
    """
    windows = _windows(manifest, lasting)
    if not len(windows):
        moves = _median_moves(manifest, lasting.rows, features)
        return AdaptedVersion(_moved(manifest, moves), moves)
    moves = {}
    for _ in range(MAX_CHANGED):
        squares = _squares(_moved(manifest, moves), windows)
        score = _median_score(manifest, squares)
        if score <= MAX_USUAL_RATIO * usual:
            break
        feature = next((i for i in _largest_errors_first(manifest, squares) if i not in moves), None)
        if feature is None:
            break
        factor = _spread_ratio(_present(lasting.rows[:, feature]), _present(before.rows[:, feature]))
        tried = [_best_level(manifest, windows, moves, feature, f) for f in {1.0, factor}]
        best, move = min(tried, key=lambda pair: pair[0])
        if best > MAX_SCORE_LEFT * score:
            break
        moves[feature] = move
    moves = _refined(manifest, windows, moves)
    moved = _moved(manifest, moves)
    squares = _squares(moved, windows)
    if _median_score(moved, squares) > MAX_USUAL_RATIO * usual:
        moved = _with_usual_errors(
            moved, squares, {*moves, *_largest_errors_first(moved, squares)[:MAX_CHANGED]}
        )
    return AdaptedVersion(moved, moves)


def lasting_scores(manifest: Manifest, lasting: BufferedRows) -> Rows:
    """Return the finite scores of the rows since a change, shape (n,); n is 0 with less than one window."""
    scores = buffer_scores(manifest, lasting)
    return scores[np.isfinite(scores)]


def _median_moves(manifest: Manifest, rows: Rows, features: Collection[int]) -> dict[int, Move]:
    moves = {}
    for i in sorted(features):
        if len(values := _present(rows[:, i])):
            moves[i] = Move(1.0, float(np.median(values) - manifest.moments.mean[i]))
    return moves


def _moved(manifest: Manifest, moves: dict[int, Move]) -> Manifest:
    return replace(manifest, moments=move_moments(manifest.moments, moves))


def _best_level(
    manifest: Manifest, windows: Rows, moves: dict[int, Move], feature: int, factor: float
) -> tuple[float, Move]:
    """Return the smallest median score that a move of a feature gives, and that move.

    Args:
        manifest: The version before all moves.
        windows: Rows since the change, shape (windows, window, features).
        moves: Moves of other features.
        feature: Position of the feature.
        factor: Ratio of its spread after the change to that before.
    """
    old = float(manifest.moments.mean[feature])
    shift = float(np.nanmedian(windows[:, :, feature])) - old
    spread = float(manifest.moments.std[feature]) or abs(shift) or 1.0
    low, high = min(0.0, 2 * shift) - spread, max(0.0, 2 * shift) + spread
    best = (np.inf, Move(factor, (1 - factor) * old))
    for _ in range(_REFINEMENTS):
        shifts = np.linspace(low, high, _GRID)
        for tried_shift in map(float, shifts):
            move = Move(factor, old + tried_shift - factor * old)
            tried = _moved(manifest, {**moves, feature: move})
            score = _median_score(tried, _squares(tried, windows))
            if score < best[0]:
                best, shift = (score, move), tried_shift
        step = shifts[1] - shifts[0]
        low, high = shift - step, shift + step
    return best


def _refined(manifest: Manifest, windows: Rows, moves: dict[int, Move]) -> dict[int, Move]:
    """Return the moves of several features, each level sought again with the others moved."""
    if len(moves) < 2:
        return moves
    refined = dict(moves)
    for _ in range(_SWEEPS):
        for feature, move in list(refined.items()):
            others = {i: other for i, other in refined.items() if i != feature}
            refined[feature] = _best_level(manifest, windows, others, feature, move.factor)[1]
    return refined


def _windows(manifest: Manifest, lasting: BufferedRows) -> Rows:
    """Return windows spread evenly over the rows, shape (windows, window, features)."""
    window = manifest.architecture.window
    starts = window_starts(lasting.rows, lasting.breaks, window)
    chosen = (
        starts[np.unique(np.linspace(0, len(starts) - 1, MAX_WINDOWS).astype(int))] if len(starts) else starts
    )
    windows: Rows = lasting.rows[chosen[:, None] + np.arange(window)]
    return windows


def _squares(manifest: Manifest, windows: Rows) -> Rows:
    """Return the squared error of each input, shape (windows, inputs); NaN where a value is missing."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = manifest.scaler.apply(windows).reshape(len(windows), -1)
        return squared_errors(manifest.architecture, manifest.weights, scaled)


def _median_score(manifest: Manifest, squares: Rows) -> float:
    return float(np.median(window_errors(squares, manifest.precision)))


def _largest_errors_first(manifest: Manifest, squares: Rows) -> list[int]:
    """Return the positions of all features by their weighted errors in the median window."""
    architecture = manifest.architecture
    weighted = (squares * manifest.precision).reshape(-1, architecture.window, architecture.features)
    errors = np.nan_to_num(np.median(np.nansum(weighted, axis=1), axis=0))
    return [int(i) for i in np.argsort(errors, kind="stable")[::-1]]


def _present(values: Rows) -> NDArray[np.float64]:
    return values[np.isfinite(values)].astype(np.float64)


def _spread_ratio(values: NDArray[np.float64], earlier: NDArray[np.float64]) -> float:
    """Return the factor by which a feature's spread has changed; 1 if it is about the same or unknown."""
    if min(len(values), len(earlier)) < MIN_SPREAD_ROWS:
        return 1.0
    new, old = (_spread(of) for of in (values, earlier))
    if not new > 0 or not old > 0 or 1 / MAX_SAME_SPREAD <= new / old <= MAX_SAME_SPREAD:
        return 1.0
    return new / old


def _spread(values: NDArray[np.float64]) -> float:
    return MAD_TO_STD * float(np.median(np.abs(values - np.median(values))))


def _with_usual_errors(manifest: Manifest, squares: Rows, features: Collection[int]) -> Manifest:
    """Return the version with larger usual errors of these features, where the windows have such."""
    architecture, residuals = manifest.architecture, manifest.residuals
    if not residuals.count:
        return manifest
    finite = np.where(np.isfinite(squares), squares, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an input that is missing in all windows
        limits = np.nanquantile(finite, _TRIMMED, axis=0)
        errors = np.nanmean(np.minimum(finite, limits), axis=0)
    usual = residuals.squares / residuals.count
    chosen = np.zeros(architecture.inputs, np.bool_)
    for i in features:
        chosen[i :: architecture.features] = True
    larger = np.where(chosen & np.isfinite(errors), np.maximum(usual, errors), usual)
    return replace(manifest, residuals=Residuals(residuals.count, larger * residuals.count))
