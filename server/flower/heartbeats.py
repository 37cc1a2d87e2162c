"""Detects dead nodes by their heartbeats, sooner than SuperLink, which lists a dead node for 20 s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIN_SILENCE_S = 6.0
"""A node counts as alive for at least this long after a heartbeat."""

MAX_MISSED = 3
"""Heartbeats in a row that a living node may miss."""

MIN_BEATS = 3
"""Heartbeats needed to know a node's interval; until then SuperLink's list decides."""


@dataclass(frozen=True)
class _Beats:
    """The heartbeats of one node."""

    stamp: float
    """Time of the newest one, on the node list's clock."""
    received_at: float
    interval_s: float = 0.0
    """Longest time between two heartbeats; it decays slowly."""
    count: int = 0

    def missing(self, now: float) -> bool:
        """Return whether too many heartbeats are missing."""
        limit_s = max(MIN_SILENCE_S, MAX_MISSED * self.interval_s)
        return self.count >= MIN_BEATS and now - self.received_at > limit_s


class HeartbeatMonitor:
    """Follows the heartbeats of nodes.

    Stamps are only compared with each other, so that the clocks of two machines need not agree.

    >>> monitor = HeartbeatMonitor()
    >>> for second in range(0, 10, 2):
    ...     alive = monitor.alive({1: float(second), 2: None}, now=float(second))
    >>> sorted(monitor.alive({1: 8.0, 2: None}, now=13.0)), sorted(monitor.alive({1: 8.0, 2: None}, now=15.0))
    ([1, 2], [2])
    """

    def __init__(self) -> None:
        self._nodes: dict[int, _Beats] = {}

    def alive(self, stamps: Mapping[int, float | None], now: float) -> frozenset[int]:
        """Return the nodes that are alive.

        Args:
            stamps: Of each node on SuperLink's list the time of its newest heartbeat; None if unknown.
            now: Seconds on a monotonic clock.
        """
        nodes: dict[int, _Beats] = {}
        for node, stamp in stamps.items():
            if stamp is None:
                continue
            before = self._nodes.get(node)
            if before is None:
                nodes[node] = _Beats(stamp, now)
            elif stamp == before.stamp:
                nodes[node] = before
            else:
                interval_s = max(now - before.received_at, 0.9 * before.interval_s)
                nodes[node] = _Beats(stamp, now, interval_s, before.count + 1)
        self._nodes = nodes
        return frozenset(node for node in stamps if node not in nodes or not nodes[node].missing(now))
