"""How well a model usually reconstructs each of its inputs, and what an input's error weighs for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.01
"""Share of the mean over all inputs that is added to each input's usual error: some hardly ever vary."""

SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Squared reconstruction errors of normal windows, summed input by input. Mergeable.

    >>> found = Residuals.of(np.array([[1.0, 4.0], [3.0, 0.0]])).merge(Residuals())
    >>> found.count, found.squares.tolist()
    (2, [4.0, 4.0])
    """

    count: int = 0
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Shape (inputs,); of no windows, (0,)."""

    def __post_init__(self) -> None:
        sound = self.squares.ndim == 1 and bool(np.isfinite(self.squares).all() and (self.squares >= 0).all())
        if self.count < 0 or not sound or (self.count > 0) != (len(self.squares) > 0):
            raise ValueError("residuals: expected a count and a finite sum of squares for each input")

    @classmethod
    def of(cls, squares: NDArray[np.floating]) -> Self:
        """Of squared errors of shape (n, inputs); of none where one is so large that it is no number."""
        sums = squares.sum(axis=0, dtype=np.float64)
        return cls(len(squares), sums) if len(squares) and np.isfinite(sums).all() else cls()

    @classmethod
    def merge_all(cls, parts: Iterable[Residuals]) -> Residuals:
        """Of all windows behind `parts`."""
        return reduce(Residuals.merge, parts, Residuals())

    def merge(self, other: Residuals) -> Residuals:
        """Of both sets of windows together."""
        if not self.count or not other.count:
            return self if self.count else other
        return Residuals(self.count + other.count, self.squares + other.squares)

    def leaning(self, fleet: Residuals, prior: int) -> Residuals:
        """A client's own usual errors, drawn towards the fleet's: the more, the fewer windows they are of.

        Of `n` windows of its own it takes `n / (n + prior)`. Both are mixed as logarithms, since inputs that
        are twice as hard here and half as hard there are as hard as usual.
        """
        if not self.count or not fleet.count:
            return self if self.count else fleet
        share = self.count / (self.count + prior)
        mixed = np.exp(share * np.log(self._usual()) + (1 - share) * np.log(fleet._usual()))
        return Residuals(self.count, self.count * mixed)

    def select(self, inputs: NDArray[np.integer]) -> Residuals:
        """Of some inputs, in this order."""
        return Residuals(self.count, self.squares[inputs]) if self.count else self

    def precision(self, inputs: int) -> NDArray[np.float32]:
        """What each squared error is multiplied by: one over its usual size, so that a usual score is 1.

        Ones, so that the score is the mean squared error, where nothing is known.

        >>> Residuals.of(np.array([[1.0, 4.0]])).precision(2).astype(float).round(2).tolist()
        [0.98, 0.25]
        """
        if not self.count or self.squares.mean() / self.count < SMALLEST:
            return np.ones(inputs, np.float32)
        found: NDArray[np.float32] = (1 / self._usual()).astype(np.float32)
        return found

    def _usual(self) -> NDArray[np.float64]:
        """Mean squared error of each input, none of them near 0."""
        usual = self.squares / self.count
        found: NDArray[np.float64] = usual + max(FLOOR * usual.mean(), SMALLEST)
        return found

    def packed(self) -> NDArray[np.float64]:
        """As one array: the count, then the squares."""
        return np.concatenate([[float(self.count)], self.squares])

    @classmethod
    def unpacked(cls, array: NDArray[np.float64]) -> Self:
        """The residuals of `packed`.

        Raises:
            ValueError: the array is none of these.
        """
        if array.ndim != 1 or array.dtype != np.float64 or not len(array) or not np.isfinite(array[0]):
            raise ValueError("residuals: expected one array of a count and squares")
        return cls(int(array[0]), array[1:])
