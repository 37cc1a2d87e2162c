from __future__ import annotations

import math
from pathlib import Path

import pytest

from client.buffers.daily_habits import BELOW, FILE, UNKNOWN, DailyHabits
from common.model.schema import Schema

DAY_S = 86400.0


def added(habits: DailyHabits, times: list[float], cause: int = 1) -> list[bool]:
    return [habits.add(cause, time) for time in times]


@pytest.mark.parametrize(
    ("nights", "habitual"),
    [
        ([0, 1, 2, 3, 4], [False, False, True, True, True]),
        ([0, 2, 3, 5, 6], [False, False, True, True, True]),  # one night may be missing
        ([0, 1, 2, 6, 7], [False, False, True, False, False]),  # after more of them it begins anew
    ],
)
def test_a_nightly_cause_is_a_habit_from_the_third_night_on(nights: list[int], habitual: list[bool]) -> None:
    times = [DAY_S * night + 3 * 3600 + 900 * (night % 3) for night in nights]
    assert added(DailyHabits(3), times) == habitual


def test_other_hours_other_causes_and_other_events_of_one_day_are_no_habit() -> None:
    habits = DailyHabits(3)
    assert added(habits, [DAY_S * day + 6 * 3600 * (day % 2) for day in range(3)]) == [False] * 3
    assert [habits.add(10 + day, DAY_S * day) for day in range(3)] == [False] * 3
    assert added(habits, [60.0 * minute for minute in range(60)], cause=20) == [False] * 60


def test_a_lasting_change_is_no_habit() -> None:
    assert not any(added(DailyHabits(3), [600.0 * i for i in range(10 * 144)])[2 * 144 :])


def test_to_add_an_event_again_changes_nothing() -> None:
    habits = DailyHabits(2)
    assert added(habits, [0.0, 0.0, DAY_S, DAY_S, 0.0]) == [False, False, True, True, False]


def test_without_days_and_without_a_time_nothing_is_a_habit() -> None:
    assert added(DailyHabits(None), [DAY_S * day for day in range(9)]) == [False] * 9
    assert added(DailyHabits(2), [math.nan, math.inf, math.nan]) == [False] * 3


def test_memory_is_bounded_even_if_the_clock_jumps() -> None:
    habits = DailyHabits(3)
    for i in range(10_000):
        habits.add(UNKNOWN, 1e9 * math.sin(i) + 1e9)
        habits.add(BELOW, 1800.0 * i)
    assert max(len(slots) for slots in habits._slots.values()) <= 2 * 4 * 48 + 1


@pytest.mark.parametrize("offset", [-7200, 0, 7200])
def test_about_the_same_time_is_within_two_hours(offset: float) -> None:
    assert added(DailyHabits(2), [DAY_S, 2 * DAY_S + offset]) == [False, True]


def test_a_restart_remembers(tmp_path: Path) -> None:
    schema, before = Schema(("disk", "memory")), DailyHabits(3)
    assert added(before, [0.0, DAY_S]) == [False, False]
    before.save(tmp_path, schema)
    after = DailyHabits(3)
    after.load(tmp_path, schema)
    assert added(after, [2 * DAY_S]) == [True]
    of_others = DailyHabits(3)
    of_others.load(tmp_path, Schema(("memory", "disk")))
    assert added(of_others, [2 * DAY_S]) == [False]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"features": ["disk"], "slots": {"x": 1}}', b"\xff"]
)
def test_a_damaged_file_is_named_and_ignored(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    habits = DailyHabits(3)
    habits.load(tmp_path, Schema(("disk",)))
    assert FILE in caplog.text
    assert added(habits, [0.0, DAY_S, 2 * DAY_S]) == [False, False, True]


def test_nothing_is_written_if_nothing_has_changed(tmp_path: Path) -> None:
    habits, schema = DailyHabits(3), Schema(("disk",))
    habits.save(tmp_path, schema)
    assert not (tmp_path / FILE).exists()
    habits.add(0, 0.0)
    habits.save(tmp_path, schema)
    (tmp_path / FILE).unlink()
    habits.add(0, 60.0)
    habits.save(tmp_path, schema)
    assert not (tmp_path / FILE).exists()
