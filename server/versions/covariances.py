"""The covariances that clients send, and the fleet's: their sum, in which each client has a bounded part.

A client sends its own once, and again when it has many more rows; the newest of each client count. So the sum
is the same in whatever order they arrive, late or twice (`common.model.lag_covariances`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.model.lag_covariances import LagCovariances, SentCovariances
from server.versions.influence import CLIP, MIN_CLIP, largest_mass, near_median, usual_range

GROWN = 2
"""A client sends its covariances again when it has this many times as many rows as when it sent them."""

MIN_GROWTH = 1.25
"""Smallest number of windows behind new covariances of the fleet, as a share of those behind the old ones."""

MIN_CORRELATION = 0.1
"""Smallest deviation of a correlation among clients: a client may differ by three times as much."""

MAX_PARTS = 512
"""Clients whose covariances are used, at most: the time to merge them grows with their number."""


class ClientCovariances:
    """The newest covariances of each client, by its name."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, SentCovariances]] = {}
        """With the number of rows that the client had when it sent them."""

    def record(self, client: str, rows: int, covariances: SentCovariances) -> None:
        """Keep what a client with this number of rows has sent."""
        self._parts[client] = rows, covariances

    def lacks(self, client: str, rows: int) -> bool:
        """Return whether a client with this number of rows should send covariances."""
        sent_with, _ = self._parts.get(client, (0, None))
        return not sent_with or rows >= GROWN * sent_with

    def grown(self, clients: Collection[str], used: LagCovariances | None) -> LagCovariances | None:
        """Return these clients' covariances together; None if they are of hardly more windows than `used`.

        Those of a client that has left stay in use, as its part of the weights does.

        Args:
            clients: Names.
            used: The covariances of the newest version; None: it has none.
        """
        parts = {name: self._parts[name][1] for name in clients if name in self._parts}
        if not parts or (used is not None and counted_windows(parts) < MIN_GROWTH * used.count):
            return None
        return merged_covariances(parts)

    def rescale(self, ratio: NDArray[np.float64]) -> None:
        """Bring all to the scale of features that are multiplied by `ratio`, shape (features,)."""
        self._parts = {name: (rows, part.rescaled(ratio)) for name, (rows, part) in self._parts.items()}

    def forget(self, client: str) -> None:
        """Remove those of a client."""
        self._parts.pop(client, None)

    def forget_all(self) -> None:
        """Remove those of all clients, which are of a model of other features."""
        self._parts.clear()


def merged_covariances(covariances: Mapping[str, SentCovariances]) -> LagCovariances:
    """Return the covariances of all clients' windows together, with bounded influence of each.

    Each client's variances are clipped as squared errors are, its correlations are limited to three robust
    deviations from the median client's, and its mass is bounded (`server.versions.influence`). Of more than
    `MAX_PARTS` clients as many are used.

    Args:
        covariances: By client, at least one, all of the same features and lags.
    """
    parts = _used_parts(covariances)
    masses = _masses(parts)
    variances = np.stack([part.variances for part in parts])
    low, high = usual_range(np.where(variances > 0, variances, np.nan), CLIP, MIN_CLIP)
    spreads = np.sqrt(np.where(variances > 0, np.clip(variances, low, high), 0.0))
    lags = []
    for lag in range(parts[0].window):
        correlations = near_median(np.stack([part.correlations_at(lag) for part in parts]), MIN_CORRELATION)
        lags.append(np.einsum("n,ni,nj,nij->ij", masses, spreads, spreads, correlations))
    values = (np.stack(lags) / masses.sum()).astype(np.float32)
    return LagCovariances(counted_windows(covariances), values)


def counted_windows(covariances: Mapping[str, SentCovariances]) -> int:
    """Return the number of windows of all clients together, with bounded mass of each."""
    return max(1, round(float(_masses(_used_parts(covariances)).sum())))


def _used_parts(covariances: Mapping[str, SentCovariances]) -> list[SentCovariances]:
    """Return the covariances of at most `MAX_PARTS` clients, evenly chosen, sorted by name."""
    names = sorted(covariances)
    chosen = np.unique(np.linspace(0, len(names) - 1, MAX_PARTS).astype(int))
    return [covariances[names[i]] for i in chosen]


def _masses(parts: Sequence[SentCovariances]) -> NDArray[np.float64]:
    """Return the number of windows that each client counts as, shape (clients,)."""
    mass = largest_mass([part.count for part in parts])
    return np.array([min(part.count, mass) for part in parts], np.float64)
