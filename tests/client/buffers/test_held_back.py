from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.buffers.daily_habits import DailyHabits
from client.buffers.held_back import HeldBackEvents, ReleasedEvents, far_from_incidents
from client.buffers.recent_events import ABNORMAL, NORMAL, UNREPORTED, RecentEvents

MARGIN = 3


def write(recent: RecentEvents, flags: list[int]) -> None:
    for flag in flags:
        slot = recent.count % recent.size
        recent.rows[slot] = recent.count
        recent.scores[slot] = recent.versions[slot] = recent.count
        recent.flags[slot] = flag
        recent.count += 1


def joined(parts: list[ReleasedEvents | None]) -> tuple[list[float], list[bool], list[bool]]:
    result = [part for part in parts if part is not None]
    return (
        [row for part in result for row in part.rows[:, 0].tolist()],
        [flag for part in result for flag in part.normal.tolist()],
        [flag for part in result for flag in part.breaks.tolist()],
    )


def test_far_from_incidents_is_far_on_both_sides() -> None:
    flags = np.zeros(12, np.uint8)
    flags[5] = ABNORMAL
    assert np.flatnonzero(~far_from_incidents(flags, 2)).tolist() == [3, 4, 5, 6, 7]
    assert far_from_incidents(flags[:0], 2).tolist() == []


@given(st.lists(st.sampled_from([NORMAL, NORMAL, NORMAL, ABNORMAL]), max_size=60), st.data())
def test_the_number_of_release_calls_does_not_matter(flags: list[int], data: st.DataObject) -> None:
    whole = RecentEvents(1, 1024)
    write(whole, flags)
    expected = joined([HeldBackEvents(whole, MARGIN, DailyHabits(None)).release()])
    recent = RecentEvents(1, 1024)
    held_back, parts, at = HeldBackEvents(recent, MARGIN, DailyHabits(None)), [], 0
    while at < len(flags):
        size = data.draw(st.integers(1, 10))
        write(recent, flags[at : at + size])
        parts.append(held_back.release())
        at += size
    assert joined(parts) == expected


@given(st.lists(st.sampled_from([NORMAL, NORMAL, NORMAL, ABNORMAL]), min_size=MARGIN + 1, max_size=60))
def test_a_break_stands_wherever_a_normal_event_does_not_follow_the_one_before(flags: list[int]) -> None:
    recent = RecentEvents(1, 1024)
    write(recent, flags)
    released = HeldBackEvents(recent, MARGIN, DailyHabits(None)).release()
    assert released is not None and len(released.rows) == len(flags) - MARGIN
    for i in np.flatnonzero(released.normal):
        near = flags[max(0, i - MARGIN) : i + MARGIN + 1]
        assert not any(flag == ABNORMAL for flag in near)
        follows = i > 0 and released.normal[i - 1]
        assert released.breaks[i] == (not follows)


def test_nothing_is_released_before_the_margin_has_passed() -> None:
    recent = RecentEvents(1, 1024)
    held_back = HeldBackEvents(recent, MARGIN, DailyHabits(None))
    assert held_back.release() is None
    write(recent, [NORMAL] * MARGIN)
    assert held_back.release() is None
    write(recent, [NORMAL])
    assert joined([held_back.release(), held_back.release()])[0] == [0.0]


def test_an_unreported_event_is_left_out_alone() -> None:
    flags = np.array([NORMAL] * 5 + [UNREPORTED] + [NORMAL] * 5, np.uint8)
    assert far_from_incidents(flags, MARGIN).tolist() == [True] * 5 + [False] + [True] * 5
