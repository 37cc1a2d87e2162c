"""k-means: the distance of a window from the nearest of the usual ones."""

from __future__ import annotations

from typing import Self

import numpy as np

from common.detectors.autoencoder import window_errors
from common.detectors.contract import (
    MAX_SCORE,
    DetectorState,
    DetectorStateError,
    Floats,
    blended_precision,
    newest_missing,
)

CENTROIDS = 32
"""Number of centroids, if there are enough windows."""
WINDOWS_PER_CENTROID = 10
"""Smallest number of windows for each centroid: with fewer, centroids are single windows."""
MAX_WINDOWS = 4096
"""Windows, evenly chosen, that centroids are fitted to."""
ITERATIONS = 20
"""Steps of the fit, at most."""
ROUNDING = np.float32(1e-6)
"""Squared distances of points below this share of their square are rounding."""


class KMeans:
    """A detector by the distance from the nearest centroid (an `OwnDetector`).

    The score is the mean of the squared differences, each divided by its usual size.

    Sources: Lloyd 1982 (the fit); Arthur and Vassilvitskii 2007 (the first centroids).

    Args:
        centroids: Usual windows, shape (centroids, inputs).
        precision: Factor for each input's squared difference, shape (inputs,), not negative.
        features: Number of values of an event.
    """

    def __init__(self, centroids: Floats, precision: Floats, features: int) -> None:
        self._centroids, self._precision, self._features = centroids, precision, features
        self._weight = precision / np.float32(len(precision))
        self._root = np.sqrt(self._weight)
        self._scaled = np.ascontiguousarray(centroids * self._root)
        self._double = -2 * self._scaled
        self._norms = np.square(self._scaled).sum(axis=1)
        self._point, self._distances = np.empty_like(self._root), np.empty_like(self._norms)

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit the centroids to normal windows, evenly chosen if there are many (`OwnDetector.fit`)."""
        chosen = windows[np.unique(np.linspace(0, len(windows) - 1, MAX_WINDOWS).astype(int))]
        root = np.sqrt(recency)
        weighted = chosen * root
        number = max(1, min(CENTROIDS, len(chosen) // WINDOWS_PER_CENTROID))
        centroids = _lloyd(weighted, number)
        nearest = _distances(weighted, centroids).argmin(axis=1)
        squares = np.square((weighted - centroids[nearest]) / root)
        return cls(
            (centroids / root).astype(np.float32), blended_precision(squares, recency, prior), features
        )

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        np.multiply(inputs, self._root, out=self._point)
        np.dot(self._double, self._point, out=self._distances)
        np.add(self._distances, self._norms, out=self._distances)
        score = float(np.dot(self._point, self._point)) + float(self._distances.min())
        return max(score, 0.0) if score <= MAX_SCORE else float(self._score_carefully(inputs[None])[0])

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        points = inputs * self._root
        scores: Floats = np.einsum("ij,ij->i", points, points)
        scores += (points @ self._double.T + self._norms).min(axis=1)
        special = ~(scores <= MAX_SCORE)
        if special.any():
            scores[special] = self._score_carefully(inputs[special])
        return np.maximum(scores, np.float32(0))

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return the weighted squared difference of each input from the nearest centroid, shape (inputs,)."""
        nearest = int(np.argmin(window_errors(self._squares(inputs), self._precision)))
        parts = np.square(unclipped - self._centroids[nearest]) * self._weight
        return np.where(np.isnan(inputs), np.float32(0), np.nan_to_num(parts, posinf=MAX_SCORE))

    def _squares(self, inputs: Floats) -> Floats:
        """Return the squared differences of one window from each centroid, shape (centroids, inputs)."""
        squares: Floats = np.square(inputs - self._centroids)
        return squares

    def _score_carefully(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs) that have missing inputs or overflow."""
        missing = newest_missing(inputs, self._features)
        scores = np.full(len(inputs), np.nan, np.float32)
        for i in np.flatnonzero(~missing):
            scores[i] = np.minimum(window_errors(self._squares(inputs[i]), self._precision), MAX_SCORE).min()
        return scores

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        return DetectorState({"centroids": self._centroids, "precision": self._precision})

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state (`OwnDetector.restored`).

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        centroids, precision = state.array("centroids", 2, inputs), state.array("precision", 1, inputs)
        if len(centroids) > CENTROIDS:
            raise DetectorStateError(f"{len(centroids)} centroids, more than {CENTROIDS}")
        if (precision < 0).any():
            raise DetectorStateError("a precision is below 0")
        return cls(centroids, precision, features)


def _distances(points: Floats, centroids: Floats) -> Floats:
    """Return the squared distance of each point from each centroid, less the square of the point."""
    distances: Floats = np.square(centroids).sum(axis=1) - points @ (2 * centroids.T)
    return distances


def _lloyd(points: Floats, number: int) -> Floats:
    """Return centroids of points, shape (number, dimensions); the same for the same points."""
    rng = np.random.default_rng(0)
    squares = np.einsum("ij,ij->i", points, points)
    centroids = points[[rng.integers(len(points))]]
    nearest = _squared_distances(points, squares, centroids)
    while len(centroids) < number and nearest.sum() > 0:
        chosen = points[[rng.choice(len(points), p=nearest / nearest.sum())]]
        centroids = np.vstack([centroids, chosen])
        nearest = np.minimum(nearest, _squared_distances(points, squares, chosen))
    cluster = np.full(len(points), -1)
    for _ in range(ITERATIONS):
        before, cluster = cluster, _distances(points, centroids).argmin(axis=1)
        if (cluster == before).all():
            break
        members = (cluster == np.arange(len(centroids))[:, None]).astype(np.float32)
        sizes = members.sum(axis=1, keepdims=True)
        centroids = np.where(sizes > 0, members @ points / np.maximum(sizes, 1), centroids)
    return centroids


def _squared_distances(points: Floats, squares: Floats, centroid: Floats) -> Floats:
    """Return the squared distance of each point, whose square is given, from a centroid.

    Args:
        points: Shape (n, dimensions).
        squares: Their own, shape (n,).
        centroid: Shape (1, dimensions).

    Returns:
        Shape (n,).
    """
    distances = squares + _distances(points, centroid)[:, 0]
    return np.where(distances > ROUNDING * squares, distances, np.float32(0))
