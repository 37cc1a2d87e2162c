"""Scores in NumPy: the autoencoder's forward pass and the reconstruction error of each window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.weights import Weights
from common.settings import Activation

Floats = NDArray[np.float32]

BLOCK = 4096
"""Windows scored at a time, so that memory does not grow with the rows."""


@dataclass(frozen=True)
class ErrorSummary:
    """Reconstruction error over a set of windows, in squared scaled units."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, errors: NDArray[np.floating]) -> ErrorSummary:
        """Summary of errors of shape (n,), n >= 1."""
        p50, p95, p99 = np.quantile(errors, (0.5, 0.95, 0.99))
        mean = errors.mean(dtype=np.float64)
        return cls(len(errors), float(mean), float(p50), float(p95), float(p99), float(errors.max()))


def windows(rows: Floats, window: int) -> Floats:
    """All runs of `window` consecutive rows, flattened oldest first.

    Args:
        rows: Shape (n, features).
        window: Events in a window, at most n.

    Returns:
        A view of shape (n - window + 1, window * features); the last event of window i is row
        `i + window - 1`. It is a copy where window > 1.
    """
    view = sliding_window_view(rows, window, axis=0)  # (n - window + 1, features, window)
    flat: Floats = view.transpose(0, 2, 1).reshape(len(view), -1)
    return flat


def reconstruct(architecture: Architecture, weights: Weights, inputs: Floats) -> Floats:
    """The autoencoder's output for scaled windows of shape (n, window * features), the same shape."""
    hidden = inputs
    for layer, activation in enumerate(architecture.activations):
        hidden = hidden @ weights[f"dense_{layer}/kernel"]
        hidden += weights[f"dense_{layer}/bias"]
        hidden = activate(activation, hidden)
    return hidden


def window_starts(breaks: NDArray[np.bool_], window: int) -> NDArray[np.int32]:
    """Where windows begin that hold no break but at their first row.

    Args:
        breaks: Shape (n,): whether a row does not follow the one before it.
        window: Events in a window.

    >>> window_starts(np.array([True, False, False, True, False]), 2).tolist()
    [0, 1, 3]
    """
    until = np.cumsum(breaks)
    starts = np.arange(max(0, len(breaks) - window + 1), dtype=np.int32)
    unbroken: NDArray[np.int32] = starts[until[starts + window - 1] == until[starts]]
    return unbroken


@dataclass(frozen=True, eq=False)
class ScoredWindows:
    """What a model makes of windows of normal rows."""

    errors: Floats
    """Shape (windows,): mean squared reconstruction error."""
    scores: Floats
    """Shape (windows,): the same with each input weighed by its precision."""
    residuals: Residuals


def score_windows(
    architecture: Architecture,
    weights: Weights,
    rows: Floats,
    starts: NDArray[np.int32] | None = None,
    precision: Floats | None = None,
) -> ScoredWindows:
    """Errors of windows of scaled rows, by window and by input.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        rows: Scaled rows in time order, shape (n, features).
        starts: Where windows begin; None: at every row.
        precision: What each input's squared error is multiplied by, shape (inputs,); None: 1.
    """
    errors, weighed, residuals = [np.empty(0, np.float32)], [np.empty(0, np.float32)], Residuals()
    for squares in _squares(architecture, weights, rows, starts):
        errors.append(squares.mean(axis=1))
        weighed.append(errors[-1] if precision is None else (squares * precision).mean(axis=1))
        residuals = residuals.merge(Residuals.of(squares))
    return ScoredWindows(np.concatenate(errors), np.concatenate(weighed), residuals)


def scores(
    architecture: Architecture,
    weights: Weights,
    rows: Floats,
    starts: NDArray[np.int32] | None = None,
    precision: Floats | None = None,
) -> Floats:
    """The score of the event that ends each window, shape (windows,): arguments as of `measured`."""
    found = [np.empty(0, np.float32)]
    for squares in _squares(architecture, weights, rows, starts):
        found.append((squares if precision is None else squares * precision).mean(axis=1))
    return np.concatenate(found)


def scored_by(manifest: Manifest, rows: Floats, starts: NDArray[np.int32] | None = None) -> Floats:
    """Return the scores of windows of scaled rows under a version; see `scores`."""
    return scores(manifest.architecture, manifest.weights, rows, starts, manifest.precision)


def _squares(
    architecture: Architecture, weights: Weights, rows: Floats, starts: NDArray[np.int32] | None
) -> Iterator[Floats]:
    """Squared errors of all windows, block by block, each of shape (windows, inputs)."""
    if starts is None:
        starts = np.arange(max(0, len(rows) - architecture.window + 1), dtype=np.int32)
    offsets = np.arange(architecture.window, dtype=np.int32)
    for first in range(0, len(starts), BLOCK):
        block = rows[starts[first : first + BLOCK, None] + offsets].reshape(-1, architecture.inputs)
        yield np.square(reconstruct(architecture, weights, block) - block)


def activate(activation: Activation, x: Floats) -> Floats:
    """What a layer's activation makes of `x`."""
    match activation:
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            # By tanh, which does not overflow: 1 / (1 + exp(-x)) does for large -x.
            half = np.float32(0.5)
            squashed: Floats = np.tanh(x * half) * half + half
            return squashed
        case "elu":
            return np.maximum(x, 0) + np.expm1(np.minimum(x, 0))
        case "linear":
            return x
