"""The autoencoder: the score of a window is its weighted error of reconstruction.

A missing value is NaN. The network gets 0 for it, which is the mean of a scaled feature, and its error is
left out of the window's error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.detectors.contract import MAX_SCORE, Floats, newest_missing
from common.settings import Activation

Layer = tuple[Floats, Floats, Activation]
"""Kernel of shape (inputs, outputs), bias of shape (outputs,), and activation of a layer."""


class Autoencoder:
    """An autoencoder with buffers for the outputs of its layers (a `WindowDetector`).

    Args:
        layers: The layers; the last one has as many outputs as the first one has inputs.
        features: Number of values of an event.
        precision: Factor for each input's squared error, shape (inputs,).
    """

    def __init__(self, layers: Sequence[Layer], features: int, precision: Floats) -> None:
        self._plain, self._features = tuple(layers), features
        self._layers = [
            (
                np.ascontiguousarray(kernel), bias, np.empty(len(bias), np.float32),
                np.zeros(len(bias), np.float32), activation,
            )
            for kernel, bias, activation in layers
        ]  # fmt: skip
        # A score is the mean of the squared errors, each multiplied by the precision of its input.
        self._precision = precision
        self._weight = precision / len(precision)
        self._root = np.sqrt(self._weight)
        self._total = float(self._weight.sum())
        self._filled = np.zeros(len(precision), np.float32)

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        error = self._error(inputs)
        return error if error <= MAX_SCORE else self._score_present(inputs)

    def _error(self, inputs: Floats, missing: NDArray[np.bool_] | None = None) -> float:
        """Return the weighted error of a window, without that of the inputs that are `missing`."""
        hidden = inputs
        for kernel, bias, output, zeros, activation in self._layers:
            np.dot(hidden, kernel, out=output)
            np.add(output, bias, out=output)
            if activation == "relu":
                np.maximum(output, zeros, out=output)
            elif activation != "linear":
                output[:] = activate(activation, output)
            hidden = output
        np.subtract(hidden, inputs, out=hidden)
        if missing is not None:
            hidden[missing] = 0
        np.multiply(hidden, self._root, out=hidden)
        return float(np.dot(hidden, hidden))

    def _score_present(self, inputs: Floats) -> float:
        """Return the score of a window that has missing inputs or overflows, as `_score_carefully` does."""
        missing = np.isnan(inputs)
        if missing[-self._features :].all():
            return math.nan
        np.copyto(self._filled, inputs)
        self._filled[missing] = 0
        present = self._total - float(self._weight[missing].sum())
        if not present > 0:
            return math.nan
        error = self._error(self._filled, missing) * self._total / present
        return error if error <= MAX_SCORE else MAX_SCORE  # what is not a number has overflowed

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        difference = self.reconstruct(inputs) - inputs
        difference *= self._root
        errors: Floats = np.einsum("ij,ij->i", difference, difference)
        special = ~(errors <= MAX_SCORE)
        if special.any():
            errors[special] = self._score_carefully(inputs[special])
        return errors

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return the weighted squared error of each input of a window, shape (inputs,)."""
        output = self.reconstruct(np.nan_to_num(inputs)[None])[0]
        parts: Floats = np.nan_to_num(np.square(output - unclipped) * self._weight, posinf=MAX_SCORE)
        return parts

    def reconstruct(self, inputs: Floats) -> Floats:
        """Return the reconstruction of windows of shape (n, inputs), in the same shape."""
        return reconstruct(self._plain, inputs)

    def _score_carefully(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs) that have missing inputs or overflow."""
        squares = squared_errors(self._plain, self._features, inputs)
        return np.minimum(window_errors(squares, self._precision), np.float32(MAX_SCORE))


def reconstruct(layers: Sequence[Layer], inputs: Floats) -> Floats:
    """Return the output of the layers for windows of shape (n, inputs), in the same shape."""
    hidden = inputs
    for kernel, bias, activation in layers:
        hidden = hidden @ kernel
        hidden += bias
        hidden = activate(activation, hidden)
    return hidden


def squared_errors(layers: Sequence[Layer], features: int, inputs: Floats) -> Floats:
    """Return the squared reconstruction error of each input of windows.

    Args:
        layers: The layers.
        features: Number of values of an event.
        inputs: Windows, shape (n, inputs); NaN where a value is missing.

    Returns:
        The same shape as `inputs`. NaN for a missing input, and for all inputs of a window whose newest event
        is missing as a whole; infinite if a reconstruction overflows.
    """
    with np.errstate(invalid="ignore"):
        squares: Floats = np.square(reconstruct(layers, inputs) - inputs)
        incomplete = np.isnan(squares.sum(axis=1))
        if incomplete.any():
            squares[incomplete] = _present_squares(layers, features, inputs[incomplete])
    return squares


def _present_squares(layers: Sequence[Layer], features: int, inputs: Floats) -> Floats:
    missing = np.isnan(inputs)
    filled = np.where(missing, np.float32(0), inputs)
    squares: Floats = np.square(reconstruct(layers, filled) - filled)
    squares[np.isnan(squares)] = np.inf
    squares[missing | newest_missing(inputs, features)[:, None]] = np.nan
    return squares


def window_errors(squares: Floats, precision: Floats | None = None) -> Floats:
    """Return the weighted mean over the present inputs of each window's squared errors.

    The mean over the present inputs, `sum(p * e) / sum(p)`, is multiplied by the mean weight of all inputs:
    a window with missing inputs has an error of the same size as a complete one.

    Args:
        squares: Shape (n, inputs), as `squared_errors` returns them.
        precision: Factor for each input's squared error, shape (inputs,); None: 1.

    Returns:
        Shape (n,); NaN for a window without a present input.

    >>> squares = np.array([[1, 2, 6], [1, 2, np.nan], [np.nan, np.nan, np.nan]], np.float32)
    >>> window_errors(squares).tolist()
    [3.0, 1.5, nan]
    """
    errors: Floats = (squares if precision is None else squares * precision).mean(axis=1)
    incomplete = np.isnan(errors)
    if incomplete.any():
        errors[incomplete] = _present_errors(squares[incomplete], precision)
    return errors


def _present_errors(squares: Floats, precision: Floats | None) -> Floats:
    weight = np.ones(squares.shape[1], np.float32) if precision is None else precision
    present = ~np.isnan(squares)
    total = np.where(present, squares * weight, np.float32(0)).sum(axis=1)
    share = present @ weight / weight.sum()
    errors = np.full(len(squares), np.nan, np.float32)
    np.divide(total, weight.size * share, out=errors, where=share > 0)
    return errors


def activate(activation: Activation, x: Floats) -> Floats:
    """Apply a layer's activation to `x`."""
    match activation:
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            # tanh does not overflow; 1 / (1 + exp(-x)) does for large -x.
            half = np.float32(0.5)
            sigmoid: Floats = np.tanh(x * half) * half + half
            return sigmoid
        case "elu":
            return np.maximum(x, 0) + np.expm1(np.minimum(x, 0))
        case "linear":
            return x
