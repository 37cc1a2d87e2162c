"""The normal distribution of windows: the Mahalanobis distance of a window from the usual one."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.contract import (
    FLOOR,
    MAX_SCORE,
    SMALLEST_ERROR,
    DetectorState,
    DetectorStateError,
    Floats,
    blended_precision,
    evenly_chosen,
)

ROUNDING = 1 / (127 * 12**0.5)
"""Standard deviation of the rounding of a correlation of the fleet (`common.model.lag_covariances`)."""

Doubles = NDArray[np.float64]


class Gaussian:
    """A detector by the Mahalanobis distance (an `OwnDetector` that can be fitted to a covariance).

    The squared distance is a sum over the inputs: each is predicted from the inputs before it, and the
    squared error of this prediction is divided by its usual size. So the parts can be weighted by the age of
    their events, which a distance as such cannot.

    Sources: Mahalanobis 1936 (the distance); Pourahmadi 1999 (the errors of prediction, which follow from the
    Cholesky factors of a covariance).

    Args:
        mean: The usual window, shape (inputs,).
        whitening: Turns a window without the mean into weighted errors of prediction, shape (inputs, inputs).
        usual: The share of each error in a usual score, shape (inputs,), not negative.
        features: Number of values of an event.
    """

    def __init__(self, mean: Floats, whitening: Floats, usual: Floats, features: int) -> None:
        self._mean, self._whitening, self._usual = mean, np.ascontiguousarray(whitening), usual
        self._features = features
        self._centred, self._errors = np.empty_like(mean), np.empty_like(mean)
        self._mask, self._basis, self._left = b"", np.empty((len(mean), 0)), 1.0
        """The inputs that were missing last, what only they add to errors, and the share of the rest."""

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit the distribution to normal windows, evenly chosen if there are many (`OwnDetector.fit`)."""
        chosen = evenly_chosen(windows).astype(np.float64)
        centred = chosen - chosen.mean(axis=0)
        covariance = centred.T @ centred / len(chosen)
        return cls._of(covariance, len(windows), chosen, features, recency, prior)

    @classmethod
    def of_covariance(
        cls, covariance: Doubles, windows: Floats, features: int, recency: Floats, prior: int
    ) -> Self:
        """Fit the distribution to a covariance, and its usual window and errors to normal windows.

        Args:
            covariance: Of the inputs, shape (inputs, inputs), symmetric, of the windows and of as many others
                as `prior`.
            windows: As in `fit`, and likewise the other arguments.
            features: Number of values of an event.
            recency: Weight of each input.
            prior: Windows with which the usual error of an input and that of the covariance count the same.
        """
        chosen = evenly_chosen(windows).astype(np.float64)
        return cls._of(covariance, len(windows) + prior, chosen, features, recency, prior, ROUNDING)

    @classmethod
    def _of(
        cls,
        covariance: Doubles,
        count: int,
        chosen: Doubles,
        features: int,
        recency: Floats,
        prior: int,
        rounding: float = 0.0,
    ) -> Self:
        """Return the detector of a covariance of this many windows, its errors weighted by `chosen`."""
        mean, inputs = chosen.mean(axis=0), chosen.shape[1]
        # Windows overlap: as many of them as a window has events are of the same events.
        lower = np.linalg.cholesky(shrunk(covariance, count * features / inputs, rounding))
        sizes = np.diagonal(lower)
        predicting = np.tril(np.linalg.inv(lower / sizes))
        squares = np.square((chosen - mean) @ predicting.T).astype(np.float32)
        precision = blended_precision(squares, recency, prior, np.square(sizes))
        whitening = np.sqrt(precision / inputs)[:, None] * predicting
        usual = (recency / recency.sum()).astype(np.float32)
        return cls(mean.astype(np.float32), whitening.astype(np.float32), usual, features)

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        np.subtract(inputs, self._mean, out=self._centred)
        np.dot(self._whitening, self._centred, out=self._errors)
        score = float(np.dot(self._errors, self._errors))
        return score if score <= MAX_SCORE else self._score_carefully(inputs)

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        errors = (inputs - self._mean) @ self._whitening.T
        scores: Floats = np.einsum("ij,ij->i", errors, errors)
        for i in np.flatnonzero(~(scores <= MAX_SCORE)):
            scores[i] = self._score_carefully(inputs[i])
        return scores

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return what each input adds to the score of a window, shape (inputs,).

        The score is a sum of products of each input and its derivative; a product below 0 counts as 0.
        Source: Westerhuis, Gurden and Smilde 2000, on contribution plots.
        """
        slopes = self._whitening.T.astype(np.float64) @ self._present_errors(inputs)
        parts = np.maximum((unclipped - self._mean) * slopes, 0)
        parts = np.minimum(np.nan_to_num(parts, posinf=MAX_SCORE), MAX_SCORE)
        return np.where(np.isnan(inputs), np.float32(0), parts.astype(np.float32))

    def _score_carefully(self, inputs: Floats) -> float:
        """Return the score of one window that has missing inputs or overflows."""
        if np.isnan(inputs[-self._features :]).all():
            return float("nan")
        errors = self._present_errors(inputs)
        score = float(errors @ errors) / self._left
        return score if score <= MAX_SCORE else MAX_SCORE  # what is not a number has overflowed

    def _present_errors(self, inputs: Floats) -> Doubles:
        """Return the errors with the missing inputs at the values that make the distance least.

        This is the distance in the distribution of the present inputs alone. `_left` becomes the share of a
        usual score that it has.
        """
        missing = np.isnan(inputs)
        if (mask := missing.tobytes()) != self._mask:
            basis = np.linalg.qr(self._whitening[:, missing].astype(np.float64))[0]
            taken = float(self._usual @ np.square(basis).sum(axis=1))
            self._mask, self._basis, self._left = mask, basis, max(1 - taken, SMALLEST_ERROR)
        errors = self._whitening @ np.where(missing, np.float32(0), inputs - self._mean)
        present: Doubles = errors - self._basis @ (self._basis.T @ errors)
        return present

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        return DetectorState({"mean": self._mean, "whitening": self._whitening}, {"usual": self._usual})

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state (`OwnDetector.restored`).

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        whitening, usual = state.array("whitening", 2, inputs), state.array("usual", 1)
        if len(whitening) != inputs or len(usual) != inputs:
            raise DetectorStateError(f"{len(whitening)} errors and {len(usual)} shares of {inputs} inputs")
        if (usual < 0).any():
            raise DetectorStateError("a share is below 0")
        return cls(state.array("mean", 1, inputs), whitening, usual, features)


def shrunk(covariance: Doubles, count: float, rounding: float = 0.0) -> Doubles:
    """Return a covariance that is moved towards equal variances, and has no eigenvalue near 0.

    The share of equal variances is that of the oracle approximating shrinkage estimator, which grows as the
    windows become few. The least eigenvalue is `FLOOR` of the mean one, or as large as the largest one of
    rounding alone: of a symmetric matrix of independent errors that is twice their deviation times the square
    root of its size.

    Sources: Chen, Wiesel, Eldar and Hero 2010, "Shrinkage Algorithms for MMSE Covariance Estimation",
    equation 23; Wigner 1958 (the eigenvalues of independent errors).

    Args:
        covariance: Symmetric, shape (inputs, inputs).
        count: Number of independent windows that it is of.
        rounding: Standard deviation of the rounding of its correlations.

    >>> shrunk(np.diag([4.0, 1.0, 1.0]), 10**6).round(3).diagonal().tolist()
    [4.0, 1.0, 1.0]
    >>> shrunk(np.diag([4.0, 1.0, 1.0]), 2).round(3).diagonal().tolist()
    [2.0, 2.0, 2.0]
    """
    inputs = len(covariance)
    mean = float(np.trace(covariance)) / inputs
    squares, square = float(np.square(covariance).sum()), (mean * inputs) ** 2
    unequal = (count + 1 - 2 / inputs) * (squares - square / inputs)
    share = min(1.0, ((1 - 2 / inputs) * squares + square) / unequal) if unequal > 0 else 1.0
    values, vectors = np.linalg.eigh((1 - share) * covariance + share * mean * np.eye(inputs))
    values = np.maximum(values, max(max(FLOOR, 2 * rounding * inputs**0.5) * mean, SMALLEST_ERROR))
    moved: Doubles = (vectors * values) @ vectors.T
    return moved
