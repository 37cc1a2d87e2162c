"""The interface of detector families, and the state of a fitted detector, which a version stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_SCORE = float(np.finfo(np.float32).max)
"""Score of a window whose score overflows."""
FLOOR = 0.01
"""Share of the mean over all inputs that is added to each input's usual error, so that none is near 0."""
SMALLEST_ERROR = 1e-6
"""Smallest mean squared error, in squared standard deviations: less is rounding."""
MAX_VALUES = 4_000_000
"""Values of the windows that a covariance is computed from, at most: 16 MB, and some tenths of a second."""


class DetectorStateError(ValueError):
    """Arrays are not the state of a detector for these inputs."""


class WindowDetector(Protocol):
    """Scores windows of scaled events; the usual score of a normal window is about 1.

    An input is one value of a window, the oldest event first; NaN is a missing value. A score is that of the
    inputs that are there, and NaN if the newest event is missing as a whole. Scores are at most `MAX_SCORE`.

    `tests/common/detectors/test_contract.py` checks these obligations for every family.
    """

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        ...

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        ...

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return the part of each input in the score of a window: not negative, 0 for a missing input.

        Args:
            inputs: The window, shape (inputs,).
            unclipped: The same before its values were clipped. Contributions are measured against these:
                otherwise a value far beyond the limit would have a smaller share than those it spoils.
        """
        ...


@dataclass(frozen=True, eq=False)
class DetectorState:
    """The arrays of a fitted detector."""

    by_input: Mapping[str, Floats] = field(default_factory=dict)
    """Arrays with a value for each input in their last axis."""
    other: Mapping[str, Floats] = field(default_factory=dict)

    def take(self, inputs: NDArray[np.integer]) -> DetectorState:
        """Return the state for the inputs at these positions, in this order."""
        return DetectorState({name: a[..., inputs] for name, a in self.by_input.items()}, self.other)

    def array(self, name: str, dimensions: int, inputs: int | None = None) -> Floats:
        """Return an array of the state.

        Args:
            name: Its name.
            dimensions: Its number of axes; none is empty.
            inputs: Number of values in its last axis; None: it is not one of `by_input`.

        Raises:
            DetectorStateError: it is missing, has another type or shape, or holds values that are not finite.
        """
        array = (self.other if inputs is None else self.by_input).get(name)
        if array is None:
            raise DetectorStateError(f"'{name}' is missing")
        if array.dtype != np.float32 or array.ndim != dimensions or not array.size:
            raise DetectorStateError(f"'{name}' is no array of float32 values with {dimensions} axes")
        if inputs is not None and array.shape[-1] != inputs:
            raise DetectorStateError(f"'{name}' is for {array.shape[-1]} inputs, expected {inputs}")
        if not np.isfinite(array).all():
            raise DetectorStateError(f"'{name}' holds values that are not finite")
        return array


class OwnDetector(WindowDetector, Protocol):
    """A detector that one machine fits to its own rows, and that never leaves the machine."""

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit a detector to normal windows.

        Args:
            windows: Shape (n, inputs), n >= 2, scaled; a missing value is 0, the mean.
            features: Number of values of an event.
            recency: Weight of each input by the age of its event, mean 1, shape (inputs,).
            prior: Windows with which the usual error of an input counts as much as that of all inputs.
        """
        ...

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        ...

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state.

        Args:
            state: What `state` returned.
            inputs: Number of values of a window.
            features: Number of values of an event.

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        ...


class CovarianceDetector(OwnDetector, Protocol):
    """A detector that can also be fitted to a covariance, such as that of a whole fleet."""

    @classmethod
    def of_covariance(
        cls, covariance: NDArray[np.float64], windows: Floats, features: int, recency: Floats, prior: int
    ) -> Self:
        """Fit a detector to a covariance, and its usual window and errors to normal windows.

        Args:
            covariance: Of the inputs, shape (inputs, inputs), symmetric, of the windows and of as many others
                as `prior`.
            windows: As in `fit`, and likewise the other arguments.
            features: Number of values of an event.
            recency: Weight of each input.
            prior: Windows with which the usual error of an input and that of the covariance count the same.
        """
        ...


def evenly_chosen(windows: Floats) -> Floats:
    """Return windows of at most `MAX_VALUES` values, evenly chosen; shape (n, inputs)."""
    most = max(2, MAX_VALUES // windows.shape[1])
    chosen: Floats = windows[np.unique(np.linspace(0, len(windows) - 1, most).astype(int))]
    return chosen


def newest_missing(inputs: Floats, features: int) -> NDArray[np.bool_]:
    """Return whether the newest event of each window is missing as a whole, shape (n,).

    Args:
        inputs: Windows, shape (n, inputs); NaN where a value is missing.
        features: Number of values of an event.
    """
    return np.asarray(np.isnan(inputs[:, -features:]).all(axis=1))


def occluded(score_many: Callable[[Floats], Floats], inputs: Floats) -> Floats:
    """Return by how much a window's score falls if an input is the usual one, 0; shape (inputs,).

    Args:
        score_many: Scores windows of shape (n, inputs).
        inputs: The window, shape (inputs,).
    """
    windows = np.repeat(np.nan_to_num(inputs)[None], len(inputs) + 1, axis=0)
    np.fill_diagonal(windows, 0)
    scores = score_many(windows)
    parts: Floats = np.maximum(scores[-1] - scores[:-1], 0)
    return parts


def blended_precision(
    squares: Floats, recency: Floats, prior: int, expected: NDArray[np.float64] | None = None
) -> Floats:
    """Return the factor for each input's squared error, by which the usual score is 1.

    An input's usual error is blended with that of all inputs, or with the one expected of it, as a weighted
    geometric mean: of few windows it is not well known, and a detector that was fitted to the same windows
    makes it too small.

    Args:
        squares: Squared errors of normal windows, shape (n, inputs).
        recency: Weight of each input by the age of its event, shape (inputs,).
        prior: Windows with which both count the same.
        expected: Squared error that each input is expected to have, shape (inputs,); None: not known.
    """
    usual = squares.mean(axis=0, dtype=np.float64)
    mean = max(float(usual.mean()), SMALLEST_ERROR)
    own = len(squares) / (len(squares) + prior)
    other = np.log(mean)
    if expected is not None:
        other = np.log(expected + max(FLOOR * float(expected.mean()), SMALLEST_ERROR))
    blend = np.exp(own * np.log(usual + FLOOR * mean) + (1 - own) * other)
    precision: Floats = (recency / blend).astype(np.float32)
    return precision
