"""Which nodes still show signs of life. SuperLink lists a dead one for 20 s; its beats tell sooner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIN_SILENCE_S = 6.0
"""No node is taken for gone sooner."""

MISSED = 3
"""Beats in a row that must be missed."""

MIN_BEATS = 3
"""Before so many have been seen, a node's rhythm is not known, and SuperLink's list is believed."""


@dataclass(frozen=True)
class _BeatIntervals:
    stamp: float
    changed: float
    gap_s: float = 0.0
    """The longest time between two beats, slowly forgotten."""
    beats: int = 0


class HeartbeatMonitor:
    """Follows the heartbeats of nodes.

    The stamps are only compared with each other, so that the clocks of two machines need not agree.

    >>> pulse = HeartbeatMonitor()
    >>> for second in range(0, 10, 2):
    ...     alive = pulse.alive({1: float(second), 2: None}, now=float(second))
    >>> sorted(pulse.alive({1: 8.0, 2: None}, now=13.0)), sorted(pulse.alive({1: 8.0, 2: None}, now=15.0))
    ([1, 2], [2])
    """

    def __init__(self) -> None:
        self._rhythms: dict[int, _BeatIntervals] = {}

    def alive(self, beats: Mapping[int, float | None], now: float) -> frozenset[int]:
        """The nodes that are not silent.

        Args:
            beats: Of each node on SuperLink's list the time of its last beat, None if that is not known.
            now: Seconds on a clock that never goes back.
        """
        rhythms: dict[int, _BeatIntervals] = {}
        for node, stamp in beats.items():
            if stamp is None:
                continue
            before = self._rhythms.get(node)
            if before is None:
                rhythms[node] = _BeatIntervals(stamp, now)
            elif stamp == before.stamp:
                rhythms[node] = before
            else:
                gap_s = max(now - before.changed, 0.9 * before.gap_s)
                rhythms[node] = _BeatIntervals(stamp, now, gap_s, before.beats + 1)
        self._rhythms = rhythms
        return frozenset(node for node in beats if node not in rhythms or not _silent(rhythms[node], now))


def _silent(rhythm: _BeatIntervals, now: float) -> bool:
    limit_s = max(MIN_SILENCE_S, MISSED * rhythm.gap_s)
    return rhythm.beats >= MIN_BEATS and now - rhythm.changed > limit_s
