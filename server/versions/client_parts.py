"""The parts of a sum that clients have sent: the newest of each client counts.

So the sum is the same in whatever order the parts arrive, late or twice. No client counts for more than a few
times the windows of the median client (`server.versions.influence`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.versions.influence import largest_mass

GROWN = 2
"""A client sends its part again when it has this many times as many rows as when it sent it."""

MIN_GROWTH = 1.25
"""Smallest number of windows behind a new sum, as a share of those behind the one in use."""

MAX_PARTS = 512
"""Clients whose parts are used, at most: the time to merge them grows with their number."""


class Part(Protocol):
    """One client's part of a sum over windows."""

    @property
    def count(self) -> int:
        """Number of windows."""
        ...


P = TypeVar("P", bound=Part)


class ClientParts(Generic[P]):
    """The newest part of each client, by its name."""

    def __init__(self) -> None:
        self._parts: dict[str, P] = {}
        self._sent_at: dict[str, tuple[int, int]] = {}
        """The version with which each client sent its part, and the number of rows that it had."""

    def record(self, client: str, version: int, rows: int, part: P) -> None:
        """Keep what a client has sent, unless it has sent another part with a later version.

        Args:
            client: Its name.
            version: The version that its update was of.
            rows: The number of rows that it had.
            part: What it has sent.
        """
        if client not in self._parts or version >= self._sent_at[client][0]:
            self._parts[client], self._sent_at[client] = part, (version, rows)

    def lacks(self, client: str, rows: int) -> bool:
        """Return whether a client with this number of rows should send its part."""
        return client not in self._parts or rows >= GROWN * self._sent_at[client][1]

    def forget(self, client: str) -> None:
        """Remove that of a client."""
        self._parts.pop(client, None)

    def forget_all(self) -> None:
        """Remove those of all clients, which are of a model of other features, or of another scale."""
        self._parts.clear()

    def _grown(self, clients: Collection[str], used: int) -> dict[str, P]:
        """Return the parts of these clients; none if they are of hardly more windows than are in use.

        Those of a client that has left stay in use, as its part of the weights does.

        Args:
            clients: Names.
            used: Windows behind the sum of the newest version; 0: it has none.
        """
        parts = {name: self._parts[name] for name in clients if name in self._parts}
        return parts if parts and counted_windows(parts) >= MIN_GROWTH * used else {}


def counted_windows(parts: Mapping[str, Part]) -> int:
    """Return the number of windows of all clients together, with bounded mass of each."""
    return max(1, round(float(masses(used_parts(parts)).sum())))


def used_parts(parts: Mapping[str, P]) -> list[P]:
    """Return the parts of at most `MAX_PARTS` clients, evenly chosen, sorted by name."""
    names = sorted(parts)
    chosen = np.unique(np.linspace(0, len(names) - 1, MAX_PARTS).astype(int))
    return [parts[names[i]] for i in chosen]


def masses(parts: Sequence[Part]) -> NDArray[np.float64]:
    """Return the number of windows that each client counts as, shape (clients,)."""
    mass = largest_mass([part.count for part in parts])
    return np.array([min(part.count, mass) for part in parts], np.float64)
