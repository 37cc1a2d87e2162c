"""The schedule of polls for messages: often when one is due, seldom otherwise.

Each poll takes the server milliseconds, and the polls of many clients together can take more than the work. A
client therefore learns the usual time between its reply and the next message. It does not poll during the
first half of this time, and then at intervals of a tenth of it.
"""

from __future__ import annotations

MIN_WAIT_S, MAX_WAIT_S = 0.02, 1.0
"""Bounds of the time between two polls."""

QUIET_SHARE = 0.5
"""Share of the usual gap in which no poll is made."""

POLL_SHARE = 0.1
"""Time between polls, as a share of the usual gap or of half the time since the last reply."""

FLEET_SHARE = 0.2
"""Longest time between polls as a share of the usual gap, where that is more than `MAX_WAIT_S`.

A long gap means that the server has many clients.
"""

NEWEST_WEIGHT = 0.5
"""Weight of the newest gap in the running mean. A gap that is shorter than the mean replaces it."""

MAX_PROMPT_S = 0.15
"""A server that takes longer to answer that no message waits is busy."""

FIRST_BUSY_WAIT_S, MAX_BUSY_WAIT_S = 0.25, 5.0
BUSY_FACTOR, IDLE_FACTOR = 4.0, 1 / 1.5
"""Factors of the wait of `BusyBackoff`: after a slow answer, and after a prompt one."""

MIN_HEARTBEAT_S = 2.0
"""Shortest time between heartbeats."""
HEARTBEAT_RATIO = 60.0
"""Time between heartbeats as a multiple of the time that one takes."""

MAX_HEARTBEAT_GROWTH = 2.0
"""Largest ratio of two times between heartbeats, one after the other.

The server waits for three times the longest that it has seen (`server.flower.heartbeats`). A pause four times
as long, after one slow heartbeat, would look like the end of the client.
"""

MAX_HEARTBEAT_SHARE = 0.8
"""Longest time between heartbeats as a share of the interval that the server was promised."""


class PollSchedule:
    """The rhythm of one client's polls. Times are seconds of any monotonic clock.

    >>> schedule = PollSchedule(now=0.0)
    >>> schedule.wait_s(now=0.0), schedule.wait_s(now=60.0)
    (0.02, 1.0)
    >>> schedule.message_replied(now=100.0); schedule.message_received(now=104.0)
    >>> schedule.message_replied(now=105.0)
    >>> schedule.wait_s(now=105.0), schedule.wait_s(now=107.0)
    (1.0, 0.4)
    """

    def __init__(self, now: float) -> None:
        self._idle_since = now
        self._usual_gap_s: float | None = None

    def message_received(self, now: float) -> None:
        """Learn the gap that ends with a message."""
        gap_s = now - self._idle_since
        if self._usual_gap_s is None or gap_s < self._usual_gap_s:
            self._usual_gap_s = gap_s
        else:
            self._usual_gap_s += NEWEST_WEIGHT * (gap_s - self._usual_gap_s)

    def message_replied(self, now: float) -> None:
        """Start the gap before the next message."""
        self._idle_since = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next poll."""
        idle_s, usual_s = now - self._idle_since, self._usual_gap_s or 0.0
        quiet_s = QUIET_SHARE * usual_s - idle_s
        polling_s = POLL_SHARE * max(usual_s if idle_s < 2 * usual_s else 0.0, 0.5 * idle_s)
        longest_s = min(max(MAX_WAIT_S, FLEET_SHARE * usual_s), MAX_BUSY_WAIT_S)
        return min(max(quiet_s, polling_s, MIN_WAIT_S), longest_s)


class BusyBackoff:
    """Lower bound of the time between polls while the server is busy, so that polls do not keep it busy.

    >>> backoff = BusyBackoff()
    >>> for _ in range(20):
    ...     busy = backoff.wait_s(took_s=1.0)
    >>> busy, round(backoff.wait_s(took_s=0.01), 2)
    (5.0, 3.33)
    """

    def __init__(self) -> None:
        # Not the shortest wait: all clients may have connected at the same time.
        self._wait_s = FIRST_BUSY_WAIT_S

    def wait_s(self, took_s: float) -> float:
        """Return the shortest wait after a poll that took `took_s` seconds and brought no message."""
        factor = BUSY_FACTOR if took_s > MAX_PROMPT_S else IDLE_FACTOR
        self._wait_s = min(max(self._wait_s * factor, MIN_WAIT_S), MAX_BUSY_WAIT_S)
        return self._wait_s


def heartbeat_wait_s(took_s: float, before_s: float, promised_s: float) -> float:
    """Return the seconds until the next heartbeat.

    Heartbeats are frequent, so that the server soon notices when they stop, and rarer if they take the server
    long, which then has too many clients for frequent ones.

    Args:
        took_s: Seconds that the last heartbeat took.
        before_s: Seconds between the last heartbeat and the one before it.
        promised_s: The interval that the server was promised.

    >>> heartbeat_wait_s(0.01, 8.0, 10.0), heartbeat_wait_s(0.1, 6.0, 10.0), heartbeat_wait_s(3.0, 6.0, 10.0)
    (2.0, 6.0, 8.0)
    >>> heartbeat_wait_s(3.0, 2.0, 10.0)
    4.0
    """
    longest_s = min(MAX_HEARTBEAT_SHARE * promised_s, MAX_HEARTBEAT_GROWTH * before_s)
    return min(max(MIN_HEARTBEAT_S, HEARTBEAT_RATIO * took_s), longest_s)
