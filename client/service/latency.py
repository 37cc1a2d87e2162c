"""The latency of the detector, from an event's arrival in the process to its verdict."""

from __future__ import annotations


class LatencyHistogram:
    """Counts events by latency, in steps of a quarter of a power of two nanoseconds."""

    def __init__(self) -> None:
        self._counts = [0] * (4 * 65)
        """Four counts for each power of two: latencies from it to the next in four equal steps."""
        self.total_ns = 0
        """Sum of the latencies of all events."""

    @property
    def events(self) -> int:
        """Number of events counted."""
        return sum(self._counts)

    def add(self, ns: int, events: int) -> None:
        """Count `events` events, each with a latency of `ns` nanoseconds."""
        power = ns.bit_length()
        self._counts[4 * power + ((ns << 3 >> power) & 3)] += events
        self.total_ns += ns * events

    def below(self, power: int) -> int:
        """Return the number of events with a latency of less than 2 ** `power` nanoseconds."""
        return sum(self._counts[: 4 * (power + 1)])

    def quantile_s(self, rank: float) -> float | None:
        """Return a quantile in seconds, at most a quarter too high; None without events.

        Args:
            rank: Share of the events, 0 to 1.
        """
        wanted, seen = rank * self.events, 0
        for step, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                power, quarter = divmod(step, 4)
                return (5 + quarter) * 2.0 ** (power - 3) / 1e9
        return None
