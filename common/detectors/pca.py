"""Principal component analysis of windows: how far a window is from the subspace, and how far out in it."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.autoencoder import window_errors
from common.detectors.contract import (
    FLOOR,
    MAX_SCORE,
    SMALLEST_ERROR,
    DetectorState,
    DetectorStateError,
    Floats,
    blended_precision,
    evenly_chosen,
    newest_missing,
)

HELD_VARIANCE = 0.9
"""Share of the variance that the components hold; there are as few as do."""
MAX_COMPONENTS = 128


class PrincipalComponents:
    """A detector by principal components (an `OwnDetector` that can be fitted to a covariance).

    The score is the mean over all dimensions of two parts: the squared errors of reconstruction, each divided
    by its usual size, for the dimensions that the components leave out, and the squared component scores,
    each divided by its variance, for those that they hold.

    Sources: Jackson and Mudholkar 1979 (the error of reconstruction, Q); Hotelling 1947 (T squared); Yue and
    Qin 2001 (an index that combines the two).

    Args:
        mean: The usual window, shape (inputs,).
        components: Orthonormal rows, shape (components, inputs).
        variances: Variance of each component score, shape (components,), above 0.
        precision: Factor for each input's squared error, shape (inputs,), not negative.
        features: Number of values of an event.
    """

    def __init__(
        self, mean: Floats, components: Floats, variances: Floats, precision: Floats, features: int
    ) -> None:
        held, inputs = components.shape
        self._mean, self._components, self._variances = mean, np.ascontiguousarray(components), variances
        self._precision, self._features = precision, features
        self._left_out = np.float32((inputs - held) / inputs)
        """Share of the dimensions that the components leave out."""
        self._root = np.sqrt(precision * self._left_out / inputs)
        self._inverse = 1 / np.sqrt(variances * inputs)
        self._centred, self._rebuilt = np.empty(inputs, np.float32), np.empty(inputs, np.float32)
        self._held = np.empty(held, np.float32)

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit the components to normal windows, evenly chosen if there are many (`OwnDetector.fit`)."""
        chosen = evenly_chosen(windows)
        mean = chosen.mean(axis=0, dtype=np.float64)
        variances, components = _components(chosen - mean)
        return cls._of_components(variances, components, chosen - mean, mean, features, recency, prior)

    @classmethod
    def of_covariance(
        cls, covariance: NDArray[np.float64], windows: Floats, features: int, recency: Floats, prior: int
    ) -> Self:
        """Fit the components to a covariance, and their usual window and errors to normal windows.

        Args:
            covariance: Of the inputs, shape (inputs, inputs), symmetric.
            windows: As in `fit`, and likewise the other arguments.
            features: Number of values of an event.
            recency: Weight of each input.
            prior: Windows with which the usual error of an input and that of the covariance count the same.
        """
        chosen = evenly_chosen(windows)
        mean = chosen.mean(axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values[::-1], 0)
        number = _number_of_components(values, len(values))
        variances, components = values[:number], vectors[:, ::-1][:, :number].T
        left_out = np.maximum(np.diagonal(covariance) - variances @ np.square(components), 0)
        return cls._of_components(
            variances, components, chosen - mean, mean, features, recency, prior, left_out
        )

    @classmethod
    def _of_components(
        cls,
        variances: NDArray[np.floating],
        components: NDArray[np.floating],
        centred: NDArray[np.floating],
        mean: NDArray[np.floating],
        features: int,
        recency: Floats,
        prior: int,
        expected: NDArray[np.float64] | None = None,
    ) -> Self:
        """Return the detector of these components, whose errors are weighted by those of centred windows.

        Args:
            variances: Of the components.
            components: Orthonormal rows, shape (components, inputs).
            centred: Normal windows without their mean, shape (n, inputs).
            mean: Of the windows.
            features: Number of values of an event.
            recency: Weight of each input.
            prior: Windows with which an input's own usual error and the expected one count the same.
            expected: Squared error that the covariance lets expect of each input; None: not known.
        """
        variances = variances + max(FLOOR * float(variances.mean()), SMALLEST_ERROR)
        squares = np.square(centred - (centred @ components.T) @ components).astype(np.float32)
        return cls(
            mean.astype(np.float32), components.astype(np.float32), variances.astype(np.float32),
            blended_precision(squares, recency, prior, expected), features,
        )  # fmt: skip

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        np.subtract(inputs, self._mean, out=self._centred)
        np.dot(self._components, self._centred, out=self._held)
        np.dot(self._held, self._components, out=self._rebuilt)
        np.subtract(self._rebuilt, self._centred, out=self._rebuilt)
        np.multiply(self._rebuilt, self._root, out=self._rebuilt)
        np.multiply(self._held, self._inverse, out=self._held)
        score = float(np.dot(self._rebuilt, self._rebuilt)) + float(np.dot(self._held, self._held))
        return score if score <= MAX_SCORE else float(self._score_carefully(inputs[None])[0])

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        centred = inputs - self._mean
        held = centred @ self._components.T
        errors = (held @ self._components - centred) * self._root
        held *= self._inverse
        scores: Floats = np.einsum("ij,ij->i", errors, errors) + np.einsum("ij,ij->i", held, held)
        special = ~(scores <= MAX_SCORE)
        if special.any():
            scores[special] = self._score_carefully(inputs[special])
        return scores

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return what each input adds to both parts of a window's score, shape (inputs,).

        The second part is a sum of products of the input and the scores of the components that it belongs to;
        a product below 0 counts as 0. Source: Westerhuis, Gurden and Smilde 2000, on contribution plots.
        """
        centred = np.nan_to_num(inputs - self._mean)
        held = self._components @ centred
        errors = held @ self._components - np.nan_to_num(unclipped - self._mean)
        outward = centred * ((held * np.square(self._inverse)) @ self._components)
        parts = np.square(errors * self._root) + np.maximum(outward, 0)
        return np.where(np.isnan(inputs), np.float32(0), np.nan_to_num(parts, posinf=MAX_SCORE))

    def _score_carefully(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs) that have missing inputs or overflow.

        A missing input is taken to be usual, and its error is left out.
        """
        missing = np.isnan(inputs)
        centred = np.where(missing, np.float32(0), inputs - self._mean)
        held = centred @ self._components.T
        squares = np.square(held @ self._components - centred)
        squares[np.isnan(squares)] = np.inf
        squares[missing] = np.nan
        scores: Floats = window_errors(squares, self._precision) * self._left_out
        scores += np.square(held * self._inverse).sum(axis=1)
        scores[np.isnan(scores)] = np.inf
        scores = np.minimum(scores, np.float32(MAX_SCORE))
        scores[newest_missing(inputs, self._features)] = np.nan
        return scores

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        by_input = {"mean": self._mean, "components": self._components, "precision": self._precision}
        return DetectorState(by_input, {"variances": self._variances})

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state (`OwnDetector.restored`).

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        components, variances = state.array("components", 2, inputs), state.array("variances", 1)
        precision = state.array("precision", 1, inputs)
        if not len(components) == len(variances) <= min(MAX_COMPONENTS, inputs):
            raise DetectorStateError(f"{len(components)} components with {len(variances)} variances")
        if (variances <= 0).any() or (precision < 0).any():
            raise DetectorStateError("a variance is not above 0, or a precision below it")
        return cls(state.array("mean", 1, inputs), components, variances, precision, features)


def _number_of_components(values: NDArray[np.floating], inputs: int) -> int:
    """Return how many components hold `HELD_VARIANCE`; one dimension is left out, if there is more than one.

    Args:
        values: Variances of all components, the largest first.
        inputs: Number of dimensions.
    """
    number = int(np.searchsorted(np.cumsum(values), HELD_VARIANCE * values.sum())) + 1
    useful = int((values > 1e-9 * max(values[0], SMALLEST_ERROR)).sum())
    return max(1, min(number, useful, inputs - 1, MAX_COMPONENTS))


def _components(centred: Floats) -> tuple[Floats, Floats]:
    """Return the variances and the components that hold `HELD_VARIANCE` of centred windows, largest first.

    At least one dimension is left out, if there is more than one. The covariance of the inputs is decomposed,
    or the products of the windows where there are fewer of them: both have the same eigenvalues.
    """
    count, inputs = centred.shape
    few = count < inputs
    values, vectors = np.linalg.eigh((centred @ centred.T if few else centred.T @ centred) / count)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    number = _number_of_components(values, inputs)
    components = vectors[:, :number].T
    if few:
        components = components @ centred
        lengths = np.linalg.norm(components, axis=1, keepdims=True)
        components = np.divide(components, lengths, out=np.zeros_like(components), where=lengths > 0)
    return values[:number], components
