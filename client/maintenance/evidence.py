"""Evidence: the time that a client's own events cover, compared with its budget of false incidents."""

from __future__ import annotations

from dataclasses import dataclass

from common.budget import Budget
from common.durations import in_words

ALERTS_TO_SEE = 2
"""Alerts that the budget must have allowed so far: a rate of one in a day shows in no less than two days."""


@dataclass(frozen=True)
class Evidence:
    """The normal events from which a threshold follows, compared with the number that its budget needs.

    >>> print(Evidence("1 per day", events=180, interval_s=60.0))
    1 per day needs 2 days of events, has 3 hours
    """

    budget: str
    """The setting `threshold.budget`."""
    events: int
    """Normal events of this client under the version in use."""
    interval_s: float
    """Seconds between two events."""

    @property
    def wanted_s(self) -> float:
        """Seconds of normal events that the budget needs."""
        budget = Budget.parse(self.budget)
        return ALERTS_TO_SEE * budget.period_s / budget.alerts

    @property
    def has_s(self) -> float:
        """Seconds of normal events that there are."""
        return self.events * self.interval_s

    @property
    def sufficient(self) -> bool:
        """Whether the events cover the time that the budget needs; until then a threshold is provisional."""
        return self.has_s >= self.wanted_s

    def __str__(self) -> str:
        return f"{self.budget} needs {in_words(self.wanted_s)} of events, has {in_words(self.has_s)}"
