"""The usual reconstruction error of each input, and the weight of the input's error in a score.

An input whose value is missing in a window is NaN there; its usual error is that of the other windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bounds import Total
from common.robust import SMALLEST

FLOOR = 0.01
"""Share of the mean over all inputs that is added to each input's usual error, so that none is near 0."""


class Residuals(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """Squared reconstruction errors of normal windows, summed for each input. They can be merged.

    >>> both = Residuals.of(np.array([[1.0, 4.0], [3.0, 0.0]])).merge(Residuals())
    >>> both.count, both.squares.tolist()
    (2, [4.0, 4.0])
    """

    count: Total = 0
    squares: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    """Shape (inputs,); (0,) if `count` is 0."""
    present: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    """Number of windows that have each input, shape (inputs,); (0,) if every window has every input."""

    def __post_init__(self) -> None:
        sound = self.squares.ndim == 1 and bool(np.isfinite(self.squares).all() and (self.squares >= 0).all())
        if self.count < 0 or not sound or (self.count > 0) != (len(self.squares) > 0):
            raise ValueError("residuals: expected a count and a finite sum of squares for each input")
        if (
            self.present.shape not in ((0,), self.squares.shape)
            or not ((self.present >= 0) & (self.present <= self.count)).all()
        ):
            raise ValueError(f"residuals: 'present' is not a count of at most {self.count} for each input")

    @classmethod
    def of(cls, squares: NDArray[np.floating]) -> Self:
        """Sum squared errors of shape (n, inputs), NaN where an input is missing.

        If a sum is infinite, the result is empty.
        """
        sums = squares.sum(axis=0, dtype=np.float64)
        if len(squares) and np.isfinite(sums).all():
            return cls(len(squares), sums)
        there = ~np.isnan(squares)
        sums, count = squares.sum(axis=0, dtype=np.float64, where=there), int(there.any(axis=1).sum())
        return (
            cls(count, sums, there.sum(axis=0).astype(float)) if count and np.isfinite(sums).all() else cls()
        )

    @classmethod
    def merge_all(cls, parts: Iterable[Residuals]) -> Residuals:
        """Return the residuals of all windows of `parts` together."""
        return reduce(Residuals.merge, parts, Residuals())

    def merge(self, other: Residuals) -> Residuals:
        """Return the residuals of both sets of windows together."""
        if not self.count or not other.count:
            return self if self.count else other
        counts = self.counts + other.counts
        present = np.zeros(0) if isinstance(counts, int) else counts
        return Residuals(self.count + other.count, self.squares + other.squares, present)

    @property
    def counts(self) -> NDArray[np.float64] | int:
        """Number of windows that have each input, shape (inputs,), or one number for all inputs."""
        return self.present if self.present.size else self.count

    def blended_with(self, fleet: Residuals, prior: int) -> Residuals:
        """Return a client's usual errors, blended with the fleet's.

        With `n` windows the client's own errors have the weight `n / (n + prior)`. The blend is a weighted
        geometric mean, so that an error of twice the fleet's and one of half of it cancel out. `n` is counted
        for each input, and an input that one of the two has never seen has the other's usual error.

        Args:
            fleet: The fleet's residuals.
            prior: Number of windows with which own and fleet's errors have equal weights.
        """
        if not self.count or not fleet.count:
            return self if self.count else fleet
        share = np.where(np.asarray(fleet.counts) > 0, self.counts / np.asarray(self.counts + prior), 1.0)
        blend = np.exp(share * np.log(self._usual()) + (1 - share) * np.log(fleet._usual()))
        return Residuals(self.count, self.count * blend)

    def take(self, inputs: NDArray[np.integer]) -> Residuals:
        """Return the residuals of the inputs at these positions, in this order."""
        present = self.present[inputs] if self.present.size else self.present
        return Residuals(self.count, self.squares[inputs], present) if self.count else self

    def precision(self, inputs: int, noise: NDArray[np.float64] | float = 0.0) -> NDArray[np.float32]:
        """Return the factor for each input's squared error: 1 / its usual size, so that a usual score is 1.

        Without residuals all factors are 1, and a score is the plain mean squared error.

        Args:
            inputs: Number of inputs.
            noise: Squared error that an input has at least, shape (inputs,), or one number for all.

        >>> Residuals.of(np.array([[1.0, 4.0]])).precision(2).astype(float).round(2).tolist()
        [0.98, 0.25]
        """
        if not self.count or self.squares.mean() / self.count < SMALLEST:
            return np.ones(inputs, np.float32)
        precision: NDArray[np.float32] = (1 / (self._usual() + noise)).astype(np.float32)
        return precision

    def _usual(self) -> NDArray[np.float64]:
        """Return the mean squared error of each input, plus a small floor.

        An input that no window has gets the mean of the others.
        """
        usual = self.squares / np.maximum(self.counts, 1)
        if self.present.size and (unknown := self.present == 0).any():
            usual[unknown] = usual[~unknown].mean()
        floored: NDArray[np.float64] = usual + max(FLOOR * usual.mean(), SMALLEST)
        return floored

    def packed(self) -> NDArray[np.float64]:
        """Return one array: the count, then the squares. `present` is not part of it."""
        return np.concatenate([[float(self.count)], self.squares])

    @classmethod
    def unpacked(cls, array: NDArray[np.float64], present: NDArray[np.float64] | None = None) -> Self:
        """Return the residuals that `packed` made an array of, and `present` if they have it.

        Raises:
            ValueError: the array has another shape or type.
        """
        if array.ndim != 1 or array.dtype != np.float64 or not len(array) or not np.isfinite(array[0]):
            raise ValueError("residuals: expected one array of a count and squares")
        return cls(int(array[0]), array[1:], np.zeros(0) if present is None else present)
