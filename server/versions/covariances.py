"""The covariances that clients send, and the fleet's: their sum, in which each client has a bounded part.

They are parts of which the newest of each client count (`server.versions.client_parts`); see also
`common.model.lag_covariances`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from common.model.lag_covariances import LagCovariances, SentCovariances
from server.versions.client_parts import ClientParts, counted_windows, masses, used_parts
from server.versions.influence import CLIP, MIN_CLIP, near_median, usual_range

MIN_CORRELATION = 0.1
"""Smallest deviation of a correlation among clients: a client may differ by three times as much."""


class ClientCovariances(ClientParts[SentCovariances]):
    """The newest covariances of each client, by its name."""

    def grown(self, clients: Collection[str], used: LagCovariances | None) -> LagCovariances | None:
        """Return these clients' covariances together; None if they are of hardly more windows than `used`.

        Args:
            clients: Names.
            used: The covariances of the newest version; None: it has none.
        """
        parts = self._grown(clients, 0 if used is None else used.count)
        return merged_covariances(parts) if parts else None

    def rescale(self, ratio: NDArray[np.float64]) -> None:
        """Bring all to the scale of features that are multiplied by `ratio`, shape (features,)."""
        self._parts = {name: part.rescaled(ratio) for name, part in self._parts.items()}


def merged_covariances(covariances: Mapping[str, SentCovariances]) -> LagCovariances:
    """Return the covariances of all clients' windows together, with bounded influence of each.

    Each client's variances are clipped as squared errors are, its correlations are limited to three robust
    deviations from the median client's, and its mass is bounded (`server.versions.influence`). Of more than
    `MAX_PARTS` clients as many are used.

    Args:
        covariances: By client, at least one, all of the same features and lags.
    """
    parts = used_parts(covariances)
    mass = masses(parts)
    variances = np.stack([part.variances for part in parts])
    low, high = usual_range(np.where(variances > 0, variances, np.nan), CLIP, MIN_CLIP)
    spreads = np.sqrt(np.where(variances > 0, np.clip(variances, low, high), 0.0))
    lags = []
    for lag in range(parts[0].window):
        correlations = near_median(np.stack([part.correlations_at(lag) for part in parts]), MIN_CORRELATION)
        lags.append(np.einsum("n,ni,nj,nij->ij", mass, spreads, spreads, correlations))
    values = (np.stack(lags) / mass.sum()).astype(np.float32)
    return LagCovariances(counted_windows(covariances), values)
