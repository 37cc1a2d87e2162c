"""Computes how long to wait between two polls for replies: SuperLink can only be asked for them."""

from __future__ import annotations

MIN_POLL_S, MAX_POLL_S = 0.02, 0.25
"""Bounds of the wait between two polls."""

POLL_SHARE = 0.05
"""The wait before a poll, as a share of the time since the last reply."""

POLL_SMOOTHING = 0.1
"""Weight of the newest interval between replies in their mean."""


class PollTimer:
    """Computes the wait before the next poll.

    Args:
        now: Seconds on a monotonic clock.
        streaming: Whether replies come one by one, as in asynchronous training, instead of together.

    >>> timer = PollTimer(now=0.0, streaming=False)
    >>> timer.wait_s(1.0), timer.wait_s(60.0)
    (0.05, 0.25)
    >>> timer.received(2, 60.0)
    >>> timer.wait_s(60.0)
    0.02
    """

    def __init__(self, now: float, streaming: bool) -> None:
        self._streaming = streaming
        self._last_reply_at = now
        self._interval_s = MIN_POLL_S

    def received(self, replies: int, now: float) -> None:
        """Record the number of replies of a poll."""
        if replies:
            interval_s = (now - self._last_reply_at) / replies
            self._interval_s += POLL_SMOOTHING * (interval_s - self._interval_s)
            self._last_reply_at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds to wait.

        If replies come one by one, the wait is at least half of their mean interval: each poll takes as much
        time of SuperLink as a client's poll.
        """
        stream_s = self._interval_s / 2 if self._streaming else 0.0
        wait_s = max(POLL_SHARE * (now - self._last_reply_at), stream_s, MIN_POLL_S)
        return min(wait_s, MAX_POLL_S)
