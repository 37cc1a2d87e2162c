"""The usual reconstruction error of each input, and the weight of the input's error in a score."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bounds import Total

FLOOR = 0.01
"""Share of the mean over all inputs that is added to each input's usual error, so that none is near 0."""

SMALLEST = float(np.finfo(np.float32).tiny)


class Residuals(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """Squared reconstruction errors of normal windows, summed for each input. They can be merged.

    >>> both = Residuals.of(np.array([[1.0, 4.0], [3.0, 0.0]])).merge(Residuals())
    >>> both.count, both.squares.tolist()
    (2, [4.0, 4.0])
    """

    count: Total = 0
    squares: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    """Shape (inputs,); (0,) if `count` is 0."""

    def __post_init__(self) -> None:
        sound = self.squares.ndim == 1 and bool(np.isfinite(self.squares).all() and (self.squares >= 0).all())
        if self.count < 0 or not sound or (self.count > 0) != (len(self.squares) > 0):
            raise ValueError("residuals: expected a count and a finite sum of squares for each input")

    @classmethod
    def of(cls, squares: NDArray[np.floating]) -> Self:
        """Sum squared errors of shape (n, inputs). If a sum is not finite, the result is empty."""
        sums = squares.sum(axis=0, dtype=np.float64)
        return cls(len(squares), sums) if len(squares) and np.isfinite(sums).all() else cls()

    @classmethod
    def merge_all(cls, parts: Iterable[Residuals]) -> Residuals:
        """Return the residuals of all windows of `parts` together."""
        return reduce(Residuals.merge, parts, Residuals())

    def merge(self, other: Residuals) -> Residuals:
        """Return the residuals of both sets of windows together."""
        if not self.count or not other.count:
            return self if self.count else other
        return Residuals(self.count + other.count, self.squares + other.squares)

    def blended_with(self, fleet: Residuals, prior: int) -> Residuals:
        """Return a client's usual errors, blended with the fleet's.

        With `n` windows the client's own errors have the weight `n / (n + prior)`. The blend is a weighted
        geometric mean, so that an error of twice the fleet's and one of half of it cancel out.

        Args:
            fleet: The fleet's residuals.
            prior: Number of windows with which own and fleet's errors have equal weights.
        """
        if not self.count or not fleet.count:
            return self if self.count else fleet
        share = self.count / (self.count + prior)
        blend = np.exp(share * np.log(self._usual()) + (1 - share) * np.log(fleet._usual()))
        return Residuals(self.count, self.count * blend)

    def take(self, inputs: NDArray[np.integer]) -> Residuals:
        """Return the residuals of the inputs at these positions, in this order."""
        return Residuals(self.count, self.squares[inputs]) if self.count else self

    def precision(self, inputs: int) -> NDArray[np.float32]:
        """Return the factor for each input's squared error: 1 / its usual size, so that a usual score is 1.

        Without residuals all factors are 1, and a score is the plain mean squared error.

        >>> Residuals.of(np.array([[1.0, 4.0]])).precision(2).astype(float).round(2).tolist()
        [0.98, 0.25]
        """
        if not self.count or self.squares.mean() / self.count < SMALLEST:
            return np.ones(inputs, np.float32)
        precision: NDArray[np.float32] = (1 / self._usual()).astype(np.float32)
        return precision

    def _usual(self) -> NDArray[np.float64]:
        """Return the mean squared error of each input, plus a small floor."""
        usual = self.squares / self.count
        floored: NDArray[np.float64] = usual + max(FLOOR * usual.mean(), SMALLEST)
        return floored

    def packed(self) -> NDArray[np.float64]:
        """Return one array: the count, then the squares."""
        return np.concatenate([[float(self.count)], self.squares])

    @classmethod
    def unpacked(cls, array: NDArray[np.float64]) -> Self:
        """Return the residuals that `packed` made an array of.

        Raises:
            ValueError: the array has another shape or type.
        """
        if array.ndim != 1 or array.dtype != np.float64 or not len(array) or not np.isfinite(array[0]):
            raise ValueError("residuals: expected one array of a count and squares")
        return cls(int(array[0]), array[1:])
