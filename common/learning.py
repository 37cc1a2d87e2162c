"""Learning: the progress of a client that gathers the events that it needs before it trains."""

from __future__ import annotations

from dataclasses import dataclass

from common.durations import in_words

MIN_ROWS, ROWS_PER_EVENT_OF_WINDOW, ROWS_PER_FEATURE = 100, 10, 5


def wanted_rows(min_rows: int | None, window: int, features: int) -> int:
    """Return the number of normal events that a client needs before it trains.

    Args:
        min_rows: The setting `client.min_rows`; None: it follows from the size of the model.
        window: Events in a window of the model.
        features: Number of features of an event.

    >>> wanted_rows(None, window=10, features=38), wanted_rows(None, window=2, features=4)
    (190, 100)
    >>> wanted_rows(7, window=10, features=38)
    7
    """
    if min_rows is not None:
        return min_rows
    return max(MIN_ROWS, ROWS_PER_EVENT_OF_WINDOW * window, ROWS_PER_FEATURE * features)


@dataclass(frozen=True)
class Learning:
    """A number of events that are gathered, and the number that is wanted.

    >>> str(Learning(312, 500, per_s=1.0))
    'learning 312 of 500 events, about 3 minutes'
    >>> str(Learning(0, 500)), str(Learning(500, 500))
    ('learning 0 of 500 events', 'has 500 events to learn from')
    """

    rows: int
    wanted: int
    per_s: float | None = None
    """Events gathered in a second; None: not known yet."""
    held_back: int = 0
    """Events that have to come before the first one is gathered."""

    @property
    def done(self) -> bool:
        """Whether there are as many events as are wanted."""
        return self.rows >= self.wanted

    @property
    def remaining_s(self) -> float | None:
        """Seconds until there are enough events at the current rate; None: not known."""
        if self.done:
            return 0.0
        return (self.wanted - self.rows + self.held_back) / self.per_s if self.per_s else None

    def __str__(self) -> str:
        if self.done:
            return f"has {self.rows} events to learn from"
        about = "" if self.remaining_s is None else f", about {in_words(self.remaining_s)}"
        return f"learning {self.rows} of {self.wanted} events{about}"
