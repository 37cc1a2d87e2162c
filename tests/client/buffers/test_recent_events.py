from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.buffers.recent_events import MAX_BATCH_EVENTS, MAX_INTERVALS, MIN_INTERVALS, RecentEvents


def write(recent: RecentEvents, events: int) -> None:
    for number in range(recent.count, recent.count + events):
        slot = number % recent.size
        recent.rows[slot] = number
        recent.scores[slot], recent.times[slot], recent.flags[slot] = number, number, number % 2
        recent.versions[slot] = number
        recent.count += 1


@given(st.integers(0, 1500), st.integers(-5, 1600))
def test_a_stretch_is_what_was_written_and_is_still_there(events: int, start: int) -> None:
    recent = RecentEvents(2, size=600)
    write(recent, events)
    result = recent.since(start)
    first = max(0, start, events + MAX_BATCH_EVENTS - 600 if events + MAX_BATCH_EVENTS > 600 else 0)
    expected = list(range(first, events))
    assert result.scores.tolist() == result.times.tolist() == result.versions.tolist() == expected
    assert result.rows.tolist() == [[n, n] for n in expected]
    assert result.flags.tolist() == [n % 2 for n in expected]
    if expected:
        assert result.start == first


@given(st.integers(0, 1500), st.integers(0, 50))
def test_the_last_rows_are_the_newest(events: int, n: int) -> None:
    recent = RecentEvents(1, size=600)
    write(recent, events)
    assert recent.last(n)[:, 0].tolist() == list(range(max(0, events - n), events))


def test_a_stretch_is_a_copy() -> None:
    recent = RecentEvents(1, size=600)
    write(recent, 5)
    result = recent.since(0)
    write(recent, 600)
    assert result.rows[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_the_interval_is_known_after_a_few_events_and_is_that_of_the_newest() -> None:
    recent = RecentEvents(1, size=8192)
    write(recent, MIN_INTERVALS)
    assert recent.interval_s is None
    write(recent, 1)
    assert recent.interval_s == 1.0
    for _ in range(MAX_INTERVALS):
        recent.times[recent.count] = recent.times[recent.count - 1] + 60
        recent.count += 1
    assert recent.interval_s == 60.0
