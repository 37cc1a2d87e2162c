"""Moments of each feature (count, mean, variance, range), which can be merged, and the scaler from them.

A missing value is NaN. Moments are those of the values that are there.

The spread that a feature is scaled by has a floor, so that a feature that is nearly constant does not raise
an alert by the smallest change:

- its *step*, the smallest change from its usual value that recurs. A counter or a rounded number cannot
  change by less, so a change of one step is at most one spread;
- `RANGE_SHARE` of its range: if hardly any row differs from the others, the standard deviation says little
  about the few that do;
- `1 / MAX_SPREAD_RATIO` of the other spread where a client's own and its fleet's differ (`for_client`,
  `raised_by`): few rows of one machine may show a feature at rest that varies on others, or the reverse.

Most features have a spread of many steps, and their floor is below it.
"""

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
from common.robust import SMALLEST
from common.settings import ScalingSettings

MIN_STD = 1e-6
"""A standard deviation below this share of the feature's magnitude is rounding noise; it counts as 0."""

MAX_SPREAD_RATIO = 10.0
"""Largest ratio of a client's median spread to the fleet's, or the inverse, at which both share a scale. Also
the largest ratio of one feature's spread on a client to the spread that it is scaled by."""

RANGE_SHARE = 0.01
"""Smallest spread as a share of the range, between the smallest and the largest value."""

CONSTANT_SHARE = 0.01
"""The spread that a constant feature is scaled by, as a share of its value, if that is more than 1."""

_LARGEST = np.float32(1e12)
"""Scaled values are cut off here before they are clipped softly, so that none is infinite."""

_STEP_ROWS = 3
"""Rows that must differ from the usual value by about one step: a single one may be an outlier."""
_STEP_TOLERANCE = 1.5
"""A change by at most this many times the smallest change is about one step."""
_MEDIAN_ROWS = 8192
"""About this many rows, evenly spread, give the usual value of a feature."""

Counts = NDArray[np.float64] | int


class Moments(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """Count, mean, spread and range of each feature over a set of rows.

    A feature that no row has is 0 everywhere. Merging does not change another's moments by it.

    >>> rows = np.array([[1.0], [2.0], [4.0]])
    >>> whole, parts = Moments.of(rows), Moments.of(rows[:1]).merge(Moments.of(rows[1:]))
    >>> bool(np.allclose(whole.variance, parts.variance))
    True
    """

    count: PositiveCount
    """Number of rows."""
    mean: NDArray[np.float64]
    """Shape (features,), like all arrays here, or (0,) for the arrays that say so."""
    m2: NDArray[np.float64]
    """Sum of squared differences from the mean."""
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    within: NDArray[np.float64]
    """Sum of squared differences of each client's rows from that client's own mean."""
    present: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    """Number of rows that have each feature; shape (0,) if every row has every feature."""
    step: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    """Smallest change from a feature's usual value that recurs; 0 if none does. Shape (0,) if not known."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"moments of {self.count} rows; expected at least one")
        columns = {"m2": self.m2, "minimum": self.minimum, "maximum": self.maximum, "mean": self.mean}
        columns["within"] = self.within
        columns |= {name: a for name in ("present", "step") if (a := getattr(self, name)).shape != (0,)}
        for name, column in columns.items():
            if column.ndim != 1 or column.shape != self.mean.shape or not np.isfinite(column).all():
                raise ValueError(f"moments: '{name}' is not {self.mean.size} finite values")
        for name, kind in (("m2", "sum of squares"), ("within", "sum of squares"), ("present", "number"),
                           ("step", "distance")):  # fmt: skip
            if (columns.get(name, self.m2) < 0).any():
                raise ValueError(f"moments: '{name}' is negative, but it is a {kind}")
        if (self.present > self.count).any():
            raise ValueError(f"moments: 'present' is more than the {self.count} rows")

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Self:
        """Compute the moments of one client's rows, shape (n, features), n >= 1; NaN is a missing value."""
        missing = np.isnan(rows)
        present = (~missing).sum(axis=0).astype(np.float64)
        mean = np.where(missing, 0, rows).sum(axis=0, dtype=np.float64) / np.maximum(present, 1)
        m2 = np.square(np.where(missing, 0, rows - mean), dtype=np.float64).sum(axis=0)
        smallest, largest = (
            np.where(present > 0, pick(np.where(missing, limit, rows), axis=0), 0.0).astype(np.float64)
            for pick, limit in ((np.min, np.inf), (np.max, -np.inf))
        )
        some = np.zeros(0) if (present == len(rows)).all() else present
        return cls(len(rows), mean, m2, smallest, largest, m2, some, _steps(rows))

    @classmethod
    def merge_all(cls, parts: Iterable[Moments]) -> Moments:
        """Return the moments of all rows of `parts` together; there is at least one part."""
        return reduce(Moments.merge, parts)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together.

        Source: Chan, Golub and LeVeque 1979, the parallel update of mean and sum of squares.
        """
        own, others = self.counts, other.counts
        count, both = np.maximum(own + others, 1), np.minimum(own, others) > 0
        delta = other.mean - self.mean
        # The range of a feature that only one of them has is that one's: the other's is 0 to 0.
        lower, upper = np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum)
        return Moments(
            self.count + other.count,
            self.mean + delta * (others / count),
            self.m2 + other.m2 + np.square(delta) * (own * others / count),
            np.where(both, lower, self.minimum + other.minimum),
            np.where(both, upper, self.maximum + other.maximum),
            self.within + other.within,
            np.zeros(0) if isinstance(own, int) and isinstance(others, int) else np.asarray(own + others),
            _smaller_step(self.step, other.step),
        )

    def for_client(self, own: Moments) -> Moments:
        """Return moments with a client's own mean and range, and this fleet's spread within clients.

        The distance between the means of two clients is not noise, so it is not part of the spread. If the
        client's features spread, in the median, over `MAX_SPREAD_RATIO` times more or less than the fleet's,
        the fleet's spread is multiplied by one factor that brings the ratio back to this limit. A feature
        that spreads over `MAX_SPREAD_RATIO` times more than that on the client is scaled by its own spread
        over this ratio, and one that does not vary in the fleet by its own spread. A feature that no row of
        the client has counts as not known: its mean on this client is not.

        `result.for_client(result)` is the result: a personalised version is scaled so (`Manifest.scaler`).

        Args:
            own: The client's moments.
        """
        client, fleet = np.sqrt(own.variance), np.sqrt(self.within / np.maximum(self.counts, 1))
        varying = (own.std > 0) & (fleet > 0)
        ratio = float(np.median(client[varying] / fleet[varying])) if varying.any() else 1.0
        factor = ratio / np.clip(ratio, 1 / MAX_SPREAD_RATIO, MAX_SPREAD_RATIO)
        counts, known = np.zeros_like(self.mean) + self.counts, np.zeros_like(self.mean) + own.counts
        counts = np.where(known == 0, 0, np.where(counts == 0, np.minimum(known, self.count), counts))
        least = counts * np.where(fleet > 0, own.variance / MAX_SPREAD_RATIO**2, own.variance)
        m2 = np.maximum(np.where(known == 0, 0, self.within * factor**2), least)
        return replace(
            self, mean=own.mean, m2=m2, minimum=own.minimum, maximum=own.maximum, within=m2,
            present=np.zeros(0) if (counts == self.count).all() else counts,
            step=_smaller_step(self.step, own.step),
        )  # fmt: skip

    def raised_by(self, fleet: Moments) -> Moments:
        """Return a client's moments, with a spread of at least the fleet's over `MAX_SPREAD_RATIO`.

        Args:
            fleet: The moments of the whole fleet.
        """
        least = fleet.within / np.maximum(fleet.counts, 1) / MAX_SPREAD_RATIO**2
        m2 = np.maximum(self.m2, self.counts * least)
        return replace(self, m2=m2, within=m2, step=_smaller_step(self.step, fleet.step))

    @classmethod
    def chosen(cls, settings: ScalingSettings, fleet: Moments, own: Moments) -> Moments:
        """Return the moments that the settings ask to scale a client's rows by.

        Args:
            settings: Whose moments to scale by.
            fleet: The moments of the whole fleet.
            own: The moments of this client.
        """
        match settings.by:
            case "shared":
                return fleet.for_client(own)
            case "client":
                return own.raised_by(fleet)
            case _:
                return fleet

    def take(self, columns: list[int]) -> Moments:
        """Return the moments of the features at these positions, in this order."""
        arrays = (self.mean, self.m2, self.minimum, self.maximum, self.within, self.present, self.step)
        return Moments(self.count, *(array[columns] if array.size else array for array in arrays))

    @property
    def counts(self) -> Counts:
        """Number of rows that have each feature, shape (features,), or one number for all features."""
        return self.present if self.present.size else self.count

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance."""
        variance: NDArray[np.float64] = self.m2 / np.maximum(self.counts, 1)
        return variance

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation, at least the floor of the feature; 0 for one that varies only by rounding."""
        std = np.sqrt(self.variance)
        constant = (std <= MIN_STD * self.magnitude) | (std < SMALLEST)
        floor = np.maximum(self.steps, RANGE_SHARE * (self.maximum - self.minimum))
        return np.where(constant, 0.0, np.maximum(std, floor))

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """Largest absolute value of each feature."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))

    @property
    def steps(self) -> NDArray[np.float64]:
        """Smallest change of each feature that recurs; 0 where it is not known."""
        return self.step if self.step.size else np.zeros_like(self.mean)


def _steps(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the smallest distance from a feature's median that recurs, 0 if none does: shape (features,).

    Distances between any two values would not do: a share such as 3 of 799 ticks has no fixed step, but its
    distance from a usual value of 0 has. Distances that are only rounding do not count.
    """
    ordered = np.sort(rows[:: max(1, len(rows) // _MEDIAN_ROWS)], axis=0)  # NaN last
    known = np.maximum((~np.isnan(ordered)).sum(axis=0), 1)
    median = ordered[(known - 1) // 2, np.arange(rows.shape[1])]
    magnitude = np.fmax.reduce(np.abs(rows), axis=0)
    distance = np.abs(rows - median)
    distance[~(distance > MIN_STD * magnitude)] = np.inf
    smallest = distance.min(axis=0)
    recurring = (distance <= _STEP_TOLERANCE * smallest).sum(axis=0) >= _STEP_ROWS
    return np.where(np.isfinite(smallest) & recurring, smallest, 0).astype(np.float64)


def _smaller_step(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smaller step of each feature; the other one where one is not known."""
    if not a.size or not b.size:
        return a if a.size else b
    return np.where((a > 0) & (b > 0), np.minimum(a, b), np.maximum(a, b))


def softly_clipped(scaled: NDArray[np.float32], limit: float) -> NDArray[np.float32]:
    """Replace the values beyond a limit by smaller ones, in place; return the array.

    Beyond the limit a value grows with the logarithm of its excess. So none dominates, but a larger one stays
    larger: on a machine whose disk sometimes writes at a rate beyond the limit, a hundred times that is still
    unusual.

    Args:
        scaled: Values of any shape; NaN stays NaN.
        limit: The distance from 0 up to which a value stays as it is, positive.

    >>> softly_clipped(np.array([9.0, -10.0, 12.0, 1000.0], np.float32), 10.0)
    array([  9.      , -10.      ,  11.098612,  16.898714], dtype=float32)
    """
    far = np.abs(scaled) > limit
    if far.any():
        beyond = np.minimum(np.abs(scaled[far]), _LARGEST) - np.float32(limit)
        scaled[far] = np.copysign(limit + np.log1p(beyond), scaled[far])
    return scaled


@dataclass(frozen=True, eq=False)
class Scaler:
    """Centres and scales rows: `(row - mean) / std`, softly clipped beyond `clip`.

    A feature that no row of the moments has is NaN in every scaled row: nothing is known to compare it with.

    >>> Scaler.none(2).apply(np.array([[3.0, 4.0]], np.float32))
    array([[3., 4.]], dtype=float32)
    """

    mean: NDArray[np.float32]
    """Shape (features,), in each feature's own unit; NaN for a feature that is not known."""
    std: NDArray[np.float32]
    clip: float | None = None

    @classmethod
    def of(cls, moments: Moments, clip: float | None = None) -> Self:
        """Return a scaler to mean 0 and standard deviation 1.

        A constant feature is centred and divided by `CONSTANT_SHARE` of its value, at least by 1.
        """
        std, constant = moments.std, np.maximum(CONSTANT_SHARE * moments.magnitude, 1.0)
        mean = np.where(np.asarray(moments.counts) > 0, moments.mean, np.nan)
        return cls(mean.astype(np.float32), np.where(std > 0, std, constant).astype(np.float32), clip)

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
        return cls.of(Moments.chosen(settings, fleet, own), settings.clip)

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a scaled copy of rows, shape (n, features)."""
        scaled = (rows - self.mean) / self.std
        return scaled if self.clip is None else softly_clipped(scaled, self.clip)
