"""Scores in NumPy: the autoencoder's forward pass and the reconstruction error of each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from common.architecture import Architecture
from common.settings import Activation
from common.weights import Weights

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
        hidden = hidden @ weights[f"dense_{layer}/kernel"] + weights[f"dense_{layer}/bias"]
        hidden = _activate(activation, hidden)
    return hidden


def scores(architecture: Architecture, weights: Weights, rows: Floats) -> Floats:
    """Mean squared reconstruction error of every window of scaled rows.

    Args:
        architecture: The model's shape.
        weights: Its weights.
        rows: Scaled rows in time order, shape (n, features).

    Returns:
        Shape (max(0, n - window + 1),): the score of the event that ends each window.
    """
    found = [np.empty(0, np.float32)]
    for start in range(0, len(rows) - architecture.window + 1, BLOCK):
        block = windows(rows[start : start + BLOCK + architecture.window - 1], architecture.window)
        difference = reconstruct(architecture, weights, block) - block
        found.append(np.square(difference).mean(axis=1))
    return np.concatenate(found)


def _activate(activation: Activation, x: Floats) -> Floats:
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
