"""The leaf counts that clients send, and the fleet's: their sum, in which each client has a bounded part.

They are parts of which the newest of each client count (`server.versions.client_parts`). Sums of integers are
exact, so that the fleet's counts are those of all rows in one place; see also `common.model.leaf_counts`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from common.model.leaf_counts import LeafCounts, SentLeafCounts
from server.versions.client_parts import ClientParts, masses, used_parts


class ClientLeafCounts(ClientParts[SentLeafCounts]):
    """The newest leaf counts of each client, by its name."""

    def grown(self, clients: Collection[str], used: LeafCounts | None) -> LeafCounts | None:
        """Return the counts of these clients together; None if they are of hardly more windows.

        Args:
            clients: Names.
            used: The counts of the newest version; None: it has none.
        """
        parts = self._grown(clients, 0 if used is None else used.count)
        return merged_leaf_counts(parts) if parts else None


def merged_leaf_counts(counts: Mapping[str, SentLeafCounts]) -> LeafCounts:
    """Return the counts of all clients' windows together, with bounded mass of each.

    The counts of a client with more windows than that are reduced by one factor and rounded down. Of more
    than `MAX_PARTS` clients as many are used.

    Args:
        counts: By client, at least one, all of the same trees.
    """
    parts = used_parts(counts)
    total, windows = np.zeros_like(parts[0].values()), 0
    for part, mass in zip(parts, masses(parts), strict=True):
        values = part.values()
        if mass < part.count:
            values = np.floor(values * (mass / part.count)).astype(np.int64)
        total += values
        windows += int(mass)
    return LeafCounts(windows, total)
