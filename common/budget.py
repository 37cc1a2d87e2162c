"""The budget: how many false incidents an operator accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_PERIODS_S = {"hour": 3600.0, "day": 86400.0, "week": 604800.0}


@dataclass(frozen=True)
class Budget:
    """A number of false incidents in a period.

    >>> Budget.parse("1 per day").rate(interval_s=300.0) == 1 / 288
    True
    """

    alerts: float
    """False incidents in a period."""
    period_s: float
    """Length of the period in seconds."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a budget from `N per hour`, `N per day` or `N per week`.

        Raises:
            ValueError: the text has another form, or N is 0.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s+per\s+(hour|day|week)\s*", text)
        if not match or not float(match[1]):
            raise ValueError(
                f"'{text}' is not a budget; expected 'N per hour', 'N per day' or 'N per week' with N above 0"
            )
        return cls(float(match[1]), _PERIODS_S[match[2]])

    def rate(self, interval_s: float) -> float:
        """Return the share of events that may start a false incident, at most 0.5.

        Args:
            interval_s: Seconds between two events.
        """
        return min(0.5, self.alerts * interval_s / self.period_s)
