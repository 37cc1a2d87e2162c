"""Scores in NumPy: the autoencoder's forward pass, and the reconstruction error of each window.

A missing value is NaN. The network gets 0 for it, which is the mean of a scaled feature, and its error is
left out of the window's error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from common.bounds import NonNegative, PositiveCount
from common.detectors import autoencoder
from common.detectors.autoencoder import window_errors
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.weights import Architecture, Weights

Floats = NDArray[np.float32]

BLOCK = 4096
"""Windows that are scored at a time, so that memory does not grow with the number of rows."""


class ErrorSummary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The distribution of the reconstruction error over a set of windows, in squared scaled units."""

    count: PositiveCount
    mean: NonNegative
    p50: NonNegative
    p95: NonNegative
    p99: NonNegative
    max: NonNegative

    @classmethod
    def of(cls, errors: NDArray[np.floating]) -> ErrorSummary:
        """Summarise errors of shape (n,), at least one of them not NaN; NaN is left out."""
        errors = errors[~np.isnan(errors)]
        p50, p95, p99 = np.quantile(errors, (0.5, 0.95, 0.99))
        mean = errors.mean(dtype=np.float64)
        return cls(len(errors), float(mean), float(p50), float(p95), float(p99), float(errors.max()))


def windows(rows: Floats, window: int) -> Floats:
    """Return all runs of `window` consecutive rows, each flattened with the oldest row first.

    Args:
        rows: Shape (n, features).
        window: Events in a window, at most n.

    Returns:
        Shape (n - window + 1, window * features); the last event of window i is row `i + window - 1`.
        A view if `window` is 1, else a copy.
    """
    view = sliding_window_view(rows, window, axis=0)  # (n - window + 1, features, window)
    flat: Floats = view.transpose(0, 2, 1).reshape(len(view), -1)
    return flat


def windows_at(rows: Floats, starts: NDArray[np.int32], window: int) -> Floats:
    """Return the windows that begin at some rows, each flattened with the oldest row first.

    Args:
        rows: Shape (n, features).
        starts: The first row of each window.
        window: Events in a window.

    Returns:
        Shape (len(starts), window * features).
    """
    taken: Floats = rows[starts[:, None] + np.arange(window)].reshape(len(starts), -1)
    return taken


def reconstruct(architecture: Architecture, weights: Weights, inputs: Floats) -> Floats:
    """Return the autoencoder's output for scaled windows.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        inputs: Scaled windows, shape (n, window * features).

    Returns:
        The same shape as `inputs`.
    """
    return autoencoder.reconstruct(architecture.layers(weights), inputs)


def squared_errors(architecture: Architecture, weights: Weights, inputs: Floats) -> Floats:
    """Return the squared reconstruction error of each input of scaled windows.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        inputs: Scaled windows, shape (n, window * features); NaN where a value is missing.

    Returns:
        The same shape as `inputs`. NaN for a missing input, and for all inputs of a window whose newest event
        is missing as a whole; infinite if a reconstruction overflows.
    """
    return autoencoder.squared_errors(architecture.layers(weights), architecture.features, inputs)


def window_starts(rows: Floats, breaks: NDArray[np.bool_], window: int) -> NDArray[np.int32]:
    """Return the first row of each window that can be scored.

    It has no break after its first row, and its newest event has a value.

    Args:
        rows: Shape (n, features); NaN where a value is missing.
        breaks: Shape (n,): whether a row does not follow directly on the row before it.
        window: Events in a window.

    >>> window_starts(np.zeros((5, 1), np.float32), np.array([True, False, False, True, False]), 2).tolist()
    [0, 1, 3]
    """
    until = np.cumsum(breaks)
    starts = np.arange(max(0, len(breaks) - window + 1), dtype=np.int32)
    newest = starts + window - 1
    empty = np.asarray(np.isnan(rows).all(axis=1))
    scored: NDArray[np.int32] = starts[(until[newest] == until[starts]) & ~empty[newest]]
    return scored


@dataclass(frozen=True, eq=False)
class ScoredWindows:
    """The errors of windows of normal rows under one model."""

    errors: Floats
    """Shape (windows,): mean squared reconstruction errors; NaN if the newest event is missing as a whole."""
    scores: Floats
    """Shape (windows,): the same, with each input's squared error multiplied by its precision."""
    residuals: Residuals
    """Squared errors, summed for each input."""


def score_windows(
    architecture: Architecture,
    weights: Weights,
    rows: Floats,
    starts: NDArray[np.int32] | None = None,
    precision: Floats | None = None,
) -> ScoredWindows:
    """Return the errors of windows of scaled rows, for each window and for each input.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        rows: Scaled rows in time order, shape (n, features); NaN where a value is missing.
        starts: First row of each window; None: every row.
        precision: Factor for each input's squared error, shape (inputs,); None: 1.
    """
    errors, weighted, residuals = [np.empty(0, np.float32)], [np.empty(0, np.float32)], Residuals()
    for squares in _squares(architecture, weights, rows, starts):
        errors.append(window_errors(squares))
        weighted.append(errors[-1] if precision is None else window_errors(squares, precision))
        residuals = residuals.merge(Residuals.of(squares))
    return ScoredWindows(np.concatenate(errors), np.concatenate(weighted), residuals)


def scores(
    architecture: Architecture,
    weights: Weights,
    rows: Floats,
    starts: NDArray[np.int32] | None = None,
    precision: Floats | None = None,
) -> Floats:
    """Return the score of the event that ends each window, shape (windows,); NaN if all of it is missing.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        rows: Scaled rows in time order, shape (n, features); NaN where a value is missing.
        starts: First row of each window; None: every row.
        precision: Factor for each input's squared error, shape (inputs,); None: 1.
    """
    blocks = [np.empty(0, np.float32)]
    for squares in _squares(architecture, weights, rows, starts):
        blocks.append(window_errors(squares, precision))
    return np.concatenate(blocks)


def version_scores(manifest: Manifest, rows: Floats, starts: NDArray[np.int32] | None = None) -> Floats:
    """Return the scores of windows of scaled rows under a version; arguments as for `scores`.

    A score of the autoencoder alone that overflows is infinite, by which a trial refuses the version.
    """
    if manifest.ensemble is None:
        return scores(manifest.architecture, manifest.weights, rows, starts, manifest.precision)
    detector, blocks = manifest.detector(), [np.empty(0, np.float32)]
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(manifest.architecture, rows, starts):
            blocks.append(detector.score_many(block))
    return np.concatenate(blocks)


def _squares(
    architecture: Architecture, weights: Weights, rows: Floats, starts: NDArray[np.int32] | None
) -> Iterator[Floats]:
    """Yield the squared errors of all windows in blocks of shape (windows, inputs)."""
    for block in _blocks(architecture, rows, starts):
        yield squared_errors(architecture, weights, block)


def _blocks(architecture: Architecture, rows: Floats, starts: NDArray[np.int32] | None) -> Iterator[Floats]:
    """Yield all windows in blocks of shape (windows, inputs)."""
    if starts is None:
        starts = np.arange(max(0, len(rows) - architecture.window + 1), dtype=np.int32)
    for first in range(0, len(starts), BLOCK):
        yield windows_at(rows, starts[first : first + BLOCK], architecture.window)
