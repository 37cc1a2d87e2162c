"""How many false alerts an operator accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_PERIODS_S = {"hour": 3600.0, "day": 86400.0, "week": 604800.0}


@dataclass(frozen=True)
class Budget:
    """So many alerts in a period.

    >>> Budget.parse("1 per day").rate(interval_s=300.0) == 1 / 288
    True
    """

    alerts: float
    period_s: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """The budget of `N per hour`, `N per day` or `N per week`.

        Raises:
            ValueError: it reads otherwise, or N is not above 0.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s+per\s+(hour|day|week)\s*", text)
        if not found or not float(found[1]):
            raise ValueError(f"'{text}' is no budget; expected 'N per hour', 'N per day' or 'N per week'")
        return cls(float(found[1]), _PERIODS_S[found[2]])

    def rate(self, interval_s: float) -> float:
        """Share of events, one each `interval_s`, that may be alerts; at most a half."""
        return min(0.5, self.alerts * interval_s / self.period_s)
