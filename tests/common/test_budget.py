from __future__ import annotations

import pytest

from common.budget import Budget


@pytest.mark.parametrize(
    ("text", "interval_s", "rate"),
    [
        ("1 per day", 60.0, 1 / 1440),
        ("24 per day", 60.0, 1 / 60),
        ("0.5 per week", 3600.0, 1 / 336),
        (" 2  per hour ", 1.0, 1 / 1800),
    ],
)
def test_a_budget_is_a_share_of_the_events(text: str, interval_s: float, rate: float) -> None:
    assert Budget.parse(text).rate(interval_s) == pytest.approx(rate)


def test_rare_events_may_not_all_be_alerts() -> None:
    assert Budget.parse("1 per hour").rate(7 * 86400.0) == 0.5


@pytest.mark.parametrize(
    "text", ["", "1", "1 a day", "one per day", "-1 per day", "0 per day", "1 per month", "1e3 per day"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a budget; expected 'N per hour'"):
        Budget.parse(text)
