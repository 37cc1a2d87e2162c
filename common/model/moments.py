"""Moments of each feature (count, mean, variance, range), which can be merged, and the scaler from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Self

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from common.bounds import PositiveCount
from common.settings import ScalingSettings

MIN_STD = 1e-6
"""A standard deviation below this share of the feature's magnitude is rounding noise; it counts as 0."""

MAX_SPREAD_RATIO = 10.0
"""Largest ratio of a client's median spread to the fleet's, or the inverse, at which both share a scale."""


class Moments(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """Count, mean, spread and range of each feature over a set of rows.

    >>> rows = np.array([[1.0], [2.0], [4.0]])
    >>> whole, parts = Moments.of(rows), Moments.of(rows[:1]).merge(Moments.of(rows[1:]))
    >>> bool(np.allclose(whole.variance, parts.variance))
    True
    """

    count: PositiveCount
    mean: NDArray[np.float64]
    """Shape (features,), as all arrays here."""
    m2: NDArray[np.float64]
    """Sum of squared differences from the mean."""
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    within: NDArray[np.float64]
    """Sum of squared differences of each client's rows from that client's own mean."""

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
                raise ValueError(f"moments: '{name}' is negative, but it is a sum of squares")

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Self:
        """Compute the moments of one client's rows, shape (n, features), n >= 1."""
        mean = rows.mean(axis=0, dtype=np.float64)
        m2 = np.square(rows - mean, dtype=np.float64).sum(axis=0)
        return cls(len(rows), mean, m2, rows.min(axis=0).astype(float), rows.max(axis=0).astype(float), m2)

    @classmethod
    def merge_all(cls, parts: Iterable[Moments]) -> Moments:
        """Return the moments of all rows of `parts` together; there is at least one part."""
        return reduce(Moments.merge, parts)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together.

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

    def for_client(self, own: Moments) -> Moments:
        """Return moments with a client's own mean and range, and this fleet's spread within clients.

        The distance between the means of two clients is not noise, so it is not part of the spread. If the
        client's features spread, in the median, over `MAX_SPREAD_RATIO` times more or less than the fleet's,
        the fleet's spread is multiplied by one factor that brings the ratio back to this limit.

        Args:
            own: The client's moments.
        """
        client, fleet = own.std, np.sqrt(self.within / self.count)
        varying = (client > 0) & (fleet > 0)
        ratio = float(np.median(client[varying] / fleet[varying])) if varying.any() else 1.0
        factor = ratio / np.clip(ratio, 1 / MAX_SPREAD_RATIO, MAX_SPREAD_RATIO)
        return replace(
            self, mean=own.mean, m2=self.within * factor**2, minimum=own.minimum, maximum=own.maximum
        )  # fmt: skip

    def take(self, columns: list[int]) -> Moments:
        """Return the moments of the features at these positions, in this order."""
        arrays = (self.mean, self.m2, self.minimum, self.maximum, self.within)
        return Moments(self.count, *(array[columns] for array in arrays))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance."""
        return self.m2 / self.count

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation; 0 for a feature that varies only by rounding."""
        std = np.sqrt(self.variance)
        magnitude = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        constant = (std <= MIN_STD * magnitude) | (std < np.finfo(np.float32).tiny)
        return np.where(constant, 0.0, std)


@dataclass(frozen=True, eq=False)
class Scaler:
    """Centres and scales rows: `(row - mean) / std`, clipped to `[-clip, clip]`.

    >>> Scaler.none(2).apply(np.array([[3.0, 4.0]], np.float32))
    array([[3., 4.]], dtype=float32)
    """

    mean: NDArray[np.float32]
    """Shape (features,), in each feature's own unit."""
    std: NDArray[np.float32]
    clip: float | None = None

    @classmethod
    def of(cls, moments: Moments, clip: float | None = None) -> Self:
        """Return a scaler to mean 0 and standard deviation 1; constant features are only centred."""
        std = moments.std
        return cls(moments.mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32), clip)

    @classmethod
    def none(cls, features: int) -> Self:
        """Return a scaler that changes nothing."""
        return cls(np.zeros(features, np.float32), np.ones(features, np.float32))

    @classmethod
    def chosen(cls, settings: ScalingSettings, fleet: Moments, own: Moments) -> Scaler:
        """Return the scaler that the settings ask for.

        Args:
            settings: Whose moments to scale by, and the limit for clipping.
            fleet: The moments of the whole fleet.
            own: The moments of this client.
        """
        if settings.by == "none":
            return cls.none(len(own.mean))
        moments = {"fleet": fleet, "client": own, "shared": fleet.for_client(own)}[settings.by]
        return cls.of(moments, settings.clip)

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a scaled copy of rows, shape (n, features)."""
        scaled = (rows - self.mean) / self.std
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)
