"""The error of a window: the weighted mean of the squared errors of the inputs that are there."""

from __future__ import annotations

import numpy as np

from common.detectors.contract import Floats


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
