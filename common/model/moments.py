"""Count, mean, variance, minimum and maximum of each feature, mergeable, and the scaler made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.settings import ScalingSettings

MIN_STD = 1e-6
"""Below this share of a feature's magnitude, its spread is rounding noise and it is only centred."""

ALIKE = 10.0
"""Up to so many times more or less than the fleet's a client's features may spread without another unit."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What a set of rows looks like, feature by feature, with no row in it.

    >>> rows = np.array([[1.0], [2.0], [4.0]])
    >>> whole, parts = Moments.of(rows), Moments.of(rows[:1]).merge(Moments.of(rows[1:]))
    >>> bool(np.allclose(whole.variance, parts.variance))
    True
    """

    count: int
    mean: NDArray[np.float64]
    """Shape (features,), like the others."""
    m2: NDArray[np.float64]
    """Sum of squared differences from the mean."""
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    within: NDArray[np.float64]
    """As `m2`, but of each client's rows from that client's own mean: how far clients differ is left out."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"moments of {self.count} rows; expected at least one")
        columns = {"m2": self.m2, "minimum": self.minimum, "maximum": self.maximum, "mean": self.mean}
        columns["within"] = self.within
        for name, column in columns.items():
            if column.ndim != 1 or column.shape != self.mean.shape or not np.isfinite(column).all():
                raise ValueError(f"moments: '{name}' is not {self.mean.size} finite values")
        for name in ("m2", "within"):
            if (columns[name] < 0).any():
                raise ValueError(f"moments: '{name}' is negative, which no sum of squares is")

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Self:
        """Moments of one client's rows, of shape (n, features), n >= 1."""
        mean = rows.mean(axis=0, dtype=np.float64)
        m2 = np.square(rows - mean, dtype=np.float64).sum(axis=0)
        return cls(len(rows), mean, m2, rows.min(axis=0).astype(float), rows.max(axis=0).astype(float), m2)

    @classmethod
    def merge_all(cls, parts: Iterable[Moments]) -> Moments:
        """The moments of all rows behind `parts`, at least one."""
        return reduce(Moments.merge, parts)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows together.

        Source: Chan, Golub and LeVeque 1979, the parallel update of mean and sum of squares.
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.within + other.within,
        )

    def around(self, own: Moments) -> Moments:
        """A client's own mean with this fleet's spread within clients.

        Where machines work at different points, the distance between those points is no noise. Where the
        client as a whole is of another size, its median feature more than `ALIKE` times off, the fleet's
        spread is made larger or smaller until it is not: in units of a giant, a dwarf does not move.
        """
        client, fleet = own.std, np.sqrt(self.within / self.count)
        moves = (client > 0) & (fleet > 0)
        ratio = float(np.median(client[moves] / fleet[moves])) if moves.any() else 1.0
        size = ratio / np.clip(ratio, 1 / ALIKE, ALIKE)
        return replace(
            self, mean=own.mean, m2=self.within * size**2, minimum=own.minimum, maximum=own.maximum
        )  # fmt: skip

    def select(self, columns: list[int]) -> Moments:
        """The moments of some features, in the order of `columns`."""
        arrays = (self.mean, self.m2, self.minimum, self.maximum, self.within)
        return Moments(self.count, *(array[columns] for array in arrays))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance."""
        return self.m2 / self.count

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation; 0 for a feature that never varies but by rounding."""
        std = np.sqrt(self.variance)
        magnitude = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        constant = (std <= MIN_STD * magnitude) | (std < np.finfo(np.float32).tiny)
        return np.where(constant, 0.0, std)


@dataclass(frozen=True, eq=False)
class Scaler:
    """Centres and scales rows: `(row - mean) / std`, cut off at `clip` on both sides.

    >>> Scaler.none(2).apply(np.array([[3.0, 4.0]], np.float32))
    array([[3., 4.]], dtype=float32)
    """

    mean: NDArray[np.float32]
    """Shape (features,), in the features' own units."""
    std: NDArray[np.float32]
    clip: float | None = None

    @classmethod
    def of(cls, moments: Moments, clip: float | None = None) -> Self:
        """A scaler to mean 0 and standard deviation 1; a feature that never varies is only centred."""
        std = moments.std
        return cls(moments.mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32), clip)

    @classmethod
    def none(cls, features: int) -> Self:
        """A scaler that changes nothing."""
        return cls(np.zeros(features, np.float32), np.ones(features, np.float32))

    @classmethod
    def chosen(cls, settings: ScalingSettings, fleet: Moments, own: Moments) -> Scaler:
        """The scaler that the settings ask for."""
        if settings.by == "none":
            return cls.none(len(own.mean))
        moments = {"fleet": fleet, "client": own, "shared": fleet.around(own)}[settings.by]
        return cls.of(moments, settings.clip)

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled copy of rows of shape (n, features)."""
        scaled = (rows - self.mean) / self.std
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)
