"""Covariances of features with those of earlier events, from which the covariance of whole windows follows.

For a window of `w` events there are `w` matrices: that of lag `l` holds the covariance of each feature with
each feature `l` events before. An entry of a window's covariance depends only on the distance between its two
events, so these matrices give all of it: `w * features^2` numbers instead of `(w * features)^2`.

A client sends its own as `SentCovariances`; the server merges them (`server.versions.influence`), and a
version holds the fleet's as `LagCovariances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from common.bounds import PositiveCount

MAX_INPUTS, MAX_SENT = 1024, 2**17
"""Inputs of the largest window of which covariances are sent, whose components take a second to compute; and
the largest number of correlations, which are as many bytes that the server keeps of each client."""
MAX_VARIANCE = 1e6
"""Largest variance that is sent, in squared units of the scaler; a larger one counts as this."""
STEPS = 127
"""Correlations are sent in steps of one over this."""
BLOCK = 8192
"""Windows that are summed at a time, so that memory does not grow with their number."""

Floats = NDArray[np.float32]


def can_be_sent(window: int, features: int) -> bool:
    """Return whether covariances for windows of this many events and features are small enough to be sent."""
    return window * features <= MAX_INPUTS and window * features**2 <= MAX_SENT


@dataclass(frozen=True, eq=False)
class LagCovariances:
    """Covariances of scaled features at the lags 0 to window - 1, of one client or of a fleet."""

    count: int
    """Number of windows, at least 1."""
    values: Floats
    """Shape (window, features, features): `values[l, i, j]` is the covariance of feature i with feature j `l`
    events before."""

    def __post_init__(self) -> None:
        shape = self.values.shape
        if self.count < 1 or self.values.dtype != np.float32 or len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"covariances of {self.count} windows have the shape {shape}")
        if not np.isfinite(self.values).all() or (np.diagonal(self.values[0]) < 0).any():
            raise ValueError("covariances are not finite, or a variance is below 0")

    @classmethod
    def of(cls, rows: Floats, starts: NDArray[np.int32], window: int) -> Self:
        """Return the covariances of one client's scaled rows, about their own mean.

        Args:
            rows: Shape (n, features), in time order; NaN where a value is missing, which counts as the mean.
            starts: First row of each window, at least one.
            window: Events in a window.
        """
        newest = starts.astype(np.int64) + window - 1
        taken = rows[newest]
        present = np.maximum((~np.isnan(taken)).sum(axis=0), 1)
        mean = np.where(np.isnan(taken), 0, taken).sum(axis=0, dtype=np.float64) / present
        sums = np.zeros((window, rows.shape[1], rows.shape[1]))
        for first in range(0, len(newest), BLOCK):
            at = newest[first : first + BLOCK]
            events = np.nan_to_num(rows[at] - mean)
            for lag in range(window):
                sums[lag] += events.T @ np.nan_to_num(rows[at - lag] - mean)
        return cls(len(starts), (sums / len(starts)).astype(np.float32))

    def blended_with(self, fleet: LagCovariances, prior: int) -> LagCovariances:
        """Return these blended with the fleet's: with n windows they weigh `n / (n + prior)`.

        Args:
            fleet: The fleet's covariances, of the same shape.
            prior: Windows with which both count the same (`scoring.prior`).
        """
        share = self.count / (self.count + prior)
        values = share * self.values.astype(np.float64) + (1 - share) * fleet.values
        return LagCovariances(self.count, values.astype(np.float32))

    def of_windows(self) -> NDArray[np.float64]:
        """Return the covariance of whole windows, shape (inputs, inputs), the oldest event first."""
        window, features, _ = self.values.shape
        whole = np.empty((window, features, window, features))
        for lag, values in enumerate(self.values):
            for later in range(lag, window):
                whole[later, :, later - lag] = values
                whole[later - lag, :, later] = values.T
        return whole.reshape(window * features, window * features)

    def take(self, columns: Sequence[int]) -> LagCovariances:
        """Return the covariances of the features at these positions, in this order."""
        return LagCovariances(self.count, self.values[:, columns][:, :, columns])

    def rescaled(self, ratio: NDArray[np.float64]) -> LagCovariances:
        """Return the covariances of features that are multiplied by `ratio`, shape (features,)."""
        return LagCovariances(self.count, (self.values * np.outer(ratio, ratio)).astype(np.float32))


class SentCovariances(msgspec.Struct, frozen=True, eq=False, array_like=True, forbid_unknown_fields=True):
    """One client's covariances as they are sent: variances, and correlations in one byte each.

    A correlation is between -1 and 1 whatever the bytes are.
    """

    count: PositiveCount
    """Number of windows."""
    variances: NDArray[np.float64]
    """Variance of each feature, shape (features,)."""
    correlations: Annotated[bytes, Meta(max_length=MAX_SENT)]
    """Correlations of lag, feature and earlier feature, in steps of 1 / `STEPS`: signed bytes."""

    def __post_init__(self) -> None:
        variances = self.variances
        if variances.ndim != 1 or not variances.size or not (variances >= 0).all():
            raise ValueError("covariances: the variances are not numbers of at least 0")
        if (variances > MAX_VARIANCE).any():
            raise ValueError(f"covariances: a variance is above {MAX_VARIANCE:g}")
        if not self.correlations or len(self.correlations) % variances.size**2:
            raise ValueError(
                f"covariances: {len(self.correlations)} correlations of {variances.size} features"
            )

    @classmethod
    def of(cls, covariances: LagCovariances) -> Self:
        """Return covariances as they are sent."""
        variances = np.diagonal(covariances.values[0]).astype(np.float64)
        spreads = np.sqrt(np.outer(variances, variances))
        correlations = np.divide(
            covariances.values, spreads, out=np.zeros(covariances.values.shape), where=spreads > 0
        )
        steps = np.rint(np.clip(correlations, -1, 1) * STEPS).astype(np.int8)
        return cls(covariances.count, np.minimum(variances, MAX_VARIANCE), steps.tobytes())

    @property
    def window(self) -> int:
        """Number of lags, which is that of the events in a window."""
        return len(self.correlations) // self.variances.size**2

    def correlations_at(self, lag: int) -> Floats:
        """Return the correlations of one lag, shape (features, features); those of lag 0 are symmetric."""
        features = self.variances.size
        steps = np.frombuffer(self.correlations, np.int8).reshape(-1, features, features)[lag]
        values: Floats = np.clip(steps.astype(np.float32) / np.float32(STEPS), -1, 1)
        if lag == 0:
            values = (values + values.T) / np.float32(2)
        return values

    def rescaled(self, ratio: NDArray[np.float64]) -> SentCovariances:
        """Return the covariances of features that are multiplied by `ratio`, shape (features,)."""
        return replace(self, variances=np.minimum(self.variances * np.square(ratio), MAX_VARIANCE))
