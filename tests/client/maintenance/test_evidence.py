from __future__ import annotations

import pytest

from client.maintenance.evidence import Evidence


@pytest.mark.parametrize(
    ("budget", "events", "interval_s", "text"),
    [
        ("1 per day", 180, 60.0, "1 per day needs 2 days of events, has 3 hours"),
        ("1 per week", 10, 300.0, "1 per week needs 14 days of events, has 50 minutes"),
        ("24 per day", 0, 1.0, "24 per day needs 2 hours of events, has 0 seconds"),
    ],
)
def test_evidence_says_what_the_budget_needs_and_what_there_is(
    budget: str, events: int, interval_s: float, text: str
) -> None:
    evidence = Evidence(budget, events, interval_s)
    assert str(evidence) == text
    assert not evidence.sufficient


def test_evidence_is_sufficient_once_the_budget_would_have_allowed_two_alerts() -> None:
    assert not Evidence("1 per day", 2879, 60.0).sufficient
    assert Evidence("1 per day", 2880, 60.0).sufficient
