"""The rhythm of polls: fast when work is due, slow when none is, and never a flood."""

from __future__ import annotations

import pytest

from client.transport.polling import MAX_WAIT_S, MIN_WAIT_S, PollSchedule


def polls(gap_s: float, rounds: int) -> list[int]:
    """Number of polls that each of some rounds takes, with messages `gap_s` after the last reply."""
    now, result = 0.0, []
    schedule = PollSchedule(now)
    for _ in range(rounds):
        due, count = now + gap_s, 0
        while now < due:
            now += schedule.wait_s(now)
            count += 1
        schedule.message_received(now)
        schedule.message_replied(now)
        result.append(count)
    return result


@pytest.mark.parametrize("gap_s", [0.05, 0.2, 1.0, 5.0, 30.0])
def test_a_regular_server_is_asked_a_few_times_a_round(gap_s: float) -> None:
    assert max(polls(gap_s, 20)[5:]) <= 8


@pytest.mark.parametrize("gap_s", [0.05, 0.2, 1.0, 5.0])
def test_a_message_waits_for_at_most_a_fifth_of_the_usual_gap(gap_s: float) -> None:
    now = 0.0
    schedule = PollSchedule(now)
    for _ in range(20):
        due = now + gap_s
        while now < due:
            now += schedule.wait_s(now)
        late = now - due
        schedule.message_received(now)
        schedule.message_replied(now)
    assert late <= max(0.2 * gap_s, MIN_WAIT_S)


def test_a_server_that_becomes_fast_is_followed_within_some_rounds() -> None:
    schedule = PollSchedule(0.0)
    schedule.message_received(10.0)
    schedule.message_replied(10.0)
    now = 10.0
    for _ in range(10):
        now += max(schedule.wait_s(now), 0.05)
        schedule.message_received(now)
        schedule.message_replied(now)
    assert schedule.wait_s(now) < 0.1


def test_a_client_of_a_server_that_falls_silent_asks_at_most_every_five_seconds() -> None:
    schedule = PollSchedule(0.0)
    for now in range(0, 6000, 300):
        schedule.message_received(now)
        schedule.message_replied(now)
    assert 1.0 < schedule.wait_s(now + 1) <= 5.0
    assert 1.0 < schedule.wait_s(now + 1e6) <= 5.0


@pytest.mark.parametrize("idle_s", [0.0, 0.1, 3.0, 60.0, 1e6])
def test_the_wait_stays_between_its_bounds(idle_s: float) -> None:
    assert MIN_WAIT_S <= PollSchedule(0.0).wait_s(idle_s) <= MAX_WAIT_S


def test_an_idle_client_slows_down_to_a_second() -> None:
    assert PollSchedule(0.0).wait_s(100.0) == MAX_WAIT_S
