"""How often to ask the server for work: often when some is due, seldom when none is.

Every poll costs the server milliseconds, and a fleet's polls together can cost it more than the work. A
client therefore learns how long the server takes between its reply and the next message, leaves it in peace
for half of that, and then polls at a tenth of it.
"""

from __future__ import annotations

MIN_S, MAX_S = 0.02, 1.0

QUIET_SHARE = 0.5
"""Share of the usual gap in which no poll is made."""

POLL_SHARE = 0.1
"""The time between polls, as a share of the usual gap, or of the time since the last message if longer."""

FLEET_SHARE = 0.2
"""The longest time between polls, as a share of the usual gap, where that is more than `MAX_S`.

A client that is served once in half a minute has many others beside it.
"""

WEIGHT = 0.5
"""Weight of the newest gap in the running mean; one that is shorter than the mean is believed at once."""


PROMPT_S = 0.15
"""A server that takes longer to say that it has nothing is busy."""

MAX_BUSY_S = 5.0

MIN_BEAT_S = 2.0
BEATS_SHARE = 60.0
"""The time between heartbeats, as a multiple of what one takes."""


class PollSchedule:
    """The rhythm of one client's polls. Times are seconds on any clock that never goes back.

    >>> pace = PollSchedule(now=0.0)
    >>> pace.wait_s(now=0.0), pace.wait_s(now=60.0)
    (0.02, 1.0)
    >>> pace.replied(now=100.0); pace.received(now=104.0)
    >>> pace.replied(now=105.0)
    >>> pace.wait_s(now=105.0), pace.wait_s(now=107.0)
    (1.0, 0.4)
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._gap_s: float | None = None

    def received(self, now: float) -> None:
        """A message has come."""
        gap_s = now - self._since
        shorter = self._gap_s is None or gap_s < self._gap_s
        self._gap_s = gap_s if shorter else WEIGHT * gap_s + (1 - WEIGHT) * (self._gap_s or 0.0)

    def replied(self, now: float) -> None:
        """Its reply has gone; the next message may come from now on."""
        self._since = now

    def wait_s(self, now: float) -> float:
        """How long to wait before the next poll."""
        idle_s, usual_s = now - self._since, self._gap_s or 0.0
        quiet_s = QUIET_SHARE * usual_s - idle_s
        polling_s = POLL_SHARE * max(usual_s if idle_s < 2 * usual_s else 0.0, 0.5 * idle_s)
        longest_s = min(max(MAX_S, FLEET_SHARE * usual_s), MAX_BUSY_S)
        return min(max(quiet_s, polling_s, MIN_S), longest_s)


class BusyBackoff:
    """How long to leave a busy server in peace, whatever the rhythm says.

    A fleet that goes on asking a server that is slow to answer is what makes it slow.

    >>> courtesy = BusyBackoff()
    >>> for _ in range(20):
    ...     busy = courtesy.wait_s(took_s=1.0)
    >>> busy, round(courtesy.wait_s(took_s=0.01), 2)
    (5.0, 3.33)
    """

    def __init__(self) -> None:
        self._wait_s = 0.25  # a fleet that returns all at once must not begin with its fastest polls

    def wait_s(self, took_s: float) -> float:
        """The least time before the next poll, after one that brought nothing and took so long."""
        busy = took_s > PROMPT_S
        self._wait_s = min(max(self._wait_s * (4.0 if busy else 1 / 1.5), MIN_S), MAX_BUSY_S)
        return self._wait_s


def beat_interval_s(took_s: float, promised_s: float) -> float:
    """Seconds before the next heartbeat, by how long the last one took.

    Often, so that the server soon notices when they stop; seldom where the server is slow to take them,
    for then the fleet's beats are too many together. Never less often than promised allows.

    >>> beat_interval_s(0.01, 10.0), beat_interval_s(0.1, 10.0), beat_interval_s(3.0, 10.0)
    (2.0, 6.0, 8.0)
    """
    return min(max(MIN_BEAT_S, BEATS_SHARE * took_s), 0.8 * promised_s)
