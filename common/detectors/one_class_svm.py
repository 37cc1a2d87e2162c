"""The one-class support vector machine: a hyperplane that has most normal windows on one side."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.contract import (
    MAX_SCORE,
    SMALLEST_ERROR,
    DetectorState,
    DetectorStateError,
    Floats,
    newest_missing,
    occluded,
)

FREQUENCIES = 256
"""Number of random features, of which each is a cosine of a weighted sum of the inputs."""
NU = 0.1
"""Share of the normal windows that the hyperplane may have on its other side."""
STEPS, BATCH = 1000, 256
"""Steps of the descent, and windows that are drawn for each."""
MIN_UNIT = 0.01
"""Least usual distance from the innermost normal window, as a share of that window's from the hyperplane."""
SEED = 0

Doubles = NDArray[np.float64]


class OneClassSvm:
    """A detector by a one-class SVM with a Gaussian kernel (an `OwnDetector`).

    The kernel is approximated by random features, in which the SVM is linear: it is learned by stochastic
    gradient descent, and scores take the same time however many windows there were. The score is by how much
    a window is nearer to the side of the unusual ones than the innermost normal one, in units of the usual
    difference. A missing value counts as the usual one, 0.

    Sources: Schoelkopf et al. 2001 (the SVM); Rahimi and Recht 2007 (the features); Shalev-Shwartz et al.
    2011 (the steps of the descent).

    Args:
        frequencies: Factors of the inputs, shape (FREQUENCIES, inputs).
        phases: Shape (FREQUENCIES,).
        normal: The normal of the hyperplane, shape (FREQUENCIES,).
        innermost: The largest value of a normal window along it.
        unit: Usual difference from that, above 0.
        features: Number of values of an event.
    """

    def __init__(
        self,
        frequencies: Floats,
        phases: Floats,
        normal: Floats,
        innermost: float,
        unit: float,
        features: int,
    ) -> None:
        self._frequencies, self._phases = np.ascontiguousarray(frequencies), phases
        self._normal, self._features = normal, features
        # As a file holds them.
        self._innermost, self._unit = float(np.float32(innermost)), float(np.float32(unit))
        self._cosines = np.empty_like(phases)

    @classmethod
    def fit(cls, windows: Floats, features: int, recency: Floats, prior: int) -> Self:
        """Fit the hyperplane to normal windows (`OwnDetector.fit`)."""
        rng = np.random.default_rng(SEED)
        spread = float((windows.var(axis=0, dtype=np.float64) * recency).sum())
        drawn = rng.standard_normal((FREQUENCIES, windows.shape[1]))
        # The mean squared distance of two windows is twice the spread: that of a kernel of e^(-1/2).
        scale = np.sqrt(recency / (2 * max(spread, SMALLEST_ERROR)))
        frequencies = (drawn * scale).astype(np.float32)
        phases = rng.uniform(0, 2 * np.pi, FREQUENCIES).astype(np.float32)
        cosines = np.cos(windows @ frequencies.T + phases)
        normal = _learned(cosines.astype(np.float64) * np.sqrt(2 / FREQUENCIES), rng)
        normal = (normal * np.sqrt(2 / FREQUENCIES)).astype(np.float32)
        values = (cosines @ normal).astype(np.float64)
        innermost = float(values.max())
        unit = max(innermost - float(values.mean()), MIN_UNIT * abs(innermost), SMALLEST_ERROR)
        return cls(frequencies, phases, normal, innermost, unit, features)

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        np.dot(self._frequencies, inputs, out=self._cosines)
        np.add(self._cosines, self._phases, out=self._cosines)
        np.cos(self._cosines, out=self._cosines)
        score = (self._innermost - float(np.dot(self._normal, self._cosines))) / self._unit
        return max(score, 0.0) if score <= MAX_SCORE else float(self.score_many(inputs[None])[0])

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        angles = np.nan_to_num(inputs) @ self._frequencies.T + self._phases
        values = np.cos(np.where(np.isfinite(angles), angles, np.pi / 2)) @ self._normal
        scores: Floats = np.maximum((self._innermost - values) / self._unit, 0).astype(np.float32)
        scores[newest_missing(inputs, self._features)] = np.nan
        return scores

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return by how much the score falls if an input is the usual one, shape (inputs,).

        A kernel is at least 0, so values beyond the limit have no larger part than those at it.
        """
        return occluded(self.score_many, inputs)

    @property
    def state(self) -> DetectorState:
        """The arrays from which `restored` makes the same detector."""
        unit = np.array([self._innermost, self._unit], np.float32)
        return DetectorState(
            {"frequencies": self._frequencies},
            {"phases": self._phases, "normal": self._normal, "unit": unit},
        )

    @classmethod
    def restored(cls, state: DetectorState, inputs: int, features: int) -> Self:
        """Return the detector of a state (`OwnDetector.restored`).

        Raises:
            DetectorStateError: the arrays are not such a state.
        """
        frequencies = state.array("frequencies", 2, inputs)
        phases, normal, unit = (state.array(name, 1) for name in ("phases", "normal", "unit"))
        if {len(frequencies), len(phases), len(normal)} != {FREQUENCIES} or len(unit) != 2:
            raise DetectorStateError(
                f"{len(frequencies)} frequencies with {len(phases)} phases and a normal of {len(normal)}"
            )
        if not unit[1] > 0:
            raise DetectorStateError("the unit of scores is not above 0")
        return cls(frequencies, phases, normal, float(unit[0]), float(unit[1]), features)


def _learned(points: Doubles, rng: np.random.Generator) -> Doubles:
    """Return the normal of the hyperplane.

    It minimises `NU / 2 * |w|^2 - NU * r + mean(max(0, r - w . x))` over the normal w and the offset r. For a
    given normal, the best offset has the share `NU` of the points on its other side; each step takes that of
    some random points, and moves the normal towards the mean of those on the other side.

    Args:
        points: Shape (n, FREQUENCIES).
        rng: Draws the points of a step.
    """
    normal: Doubles = points.mean(axis=0)
    for step in range(1, STEPS + 1):
        batch = points if len(points) <= BATCH else points[rng.integers(len(points), size=BATCH)]
        outside = max(1, round(NU * len(batch)))
        nearest = np.argpartition(batch @ normal, outside - 1)[:outside]
        normal += (batch[nearest].mean(axis=0) - normal) / (step + 1)
    return normal
