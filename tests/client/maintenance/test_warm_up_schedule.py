from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.buffers.daily_habits import DailyHabits
from client.buffers.held_back import HeldBackEvents
from client.buffers.recent_events import ABNORMAL, NORMAL, RecentEvents
from client.buffers.training_buffer import BufferedRows
from client.maintenance.warm_up_schedule import WarmUpSchedule
from client.versions.warm_up import MAX_ROWS, MIN_ROWS
from common.model.manifest import Manifest
from tests.client.sample_versions import rows, version

NOTHING = BufferedRows.empty(3)
SHIFT = np.float32(50)


def fleet_version() -> Manifest:
    return replace(version(window=4, scaling={"by": "shared", "clip": 10.0}), personalised=False)


class Machine:
    """A stream of events, and the schedule that follows it; held-back events wait for `release`."""

    def __init__(self, setting: int | None = None, restored: int = 0, size: int = 32768) -> None:
        self.recent = RecentEvents(3, size)
        self.held_back = HeldBackEvents(self.recent, 10, DailyHabits(None))
        self.schedule = WarmUpSchedule(self.recent, self.held_back, setting)
        self.schedule.restored = restored

    def feed(self, values: np.ndarray, flag: int = NORMAL) -> None:
        for row in values:
            slot = self.recent.count % self.recent.size
            self.recent.rows[slot], self.recent.flags[slot] = row, flag
            self.recent.count += 1


def test_the_first_estimate_is_due_after_a_few_events_and_the_next_at_each_doubling() -> None:
    machine, due = Machine(), []
    machine.schedule.begin(fleet_version())
    assert machine.schedule.wanted == MIN_ROWS
    for row in rows(500):
        machine.feed(row[None])
        if machine.schedule.estimate(NOTHING) is not None:
            due.append(machine.recent.count)
    assert due == [25, 50, 100, 200, 400]
    assert machine.schedule.until_due == 300
    assert machine.schedule.wanted is None


def test_the_setting_is_the_number_of_events_of_the_first_estimate() -> None:
    machine = Machine(setting=12)
    machine.schedule.begin(fleet_version())
    machine.feed(rows(11))
    assert machine.schedule.until_due == 1
    assert machine.schedule.estimate(NOTHING) is None
    machine.feed(rows(1))
    assert machine.schedule.until_due == 0
    assert machine.schedule.estimate(NOTHING) is not None


def test_no_estimate_is_due_without_a_version_of_the_fleet_or_after_the_end() -> None:
    machine = Machine()
    machine.feed(rows(100))
    assert machine.schedule.until_due is None
    machine.schedule.begin(fleet_version())
    assert machine.schedule.until_due == 0
    machine.schedule.end()
    assert machine.schedule.until_due is None
    assert machine.schedule.estimate(NOTHING) is None


def test_an_estimate_from_many_events_is_the_last() -> None:
    machine = Machine()
    machine.schedule.begin(fleet_version())
    machine.feed(rows(MAX_ROWS))
    assert machine.schedule.estimate(NOTHING) is not None
    assert machine.schedule.until_due is None


def test_after_a_restart_the_rows_on_disk_count() -> None:
    buffered = BufferedRows(rows(200) + SHIFT, np.arange(200) == 0)
    machine = Machine(restored=200)
    machine.schedule.begin(fleet_version())
    warm = machine.schedule.estimate(buffered)
    assert warm is not None
    assert len(warm.normal.rows) == 200
    assert abs(warm.manifest.moments.mean[0] - 50) < 0.3
    assert machine.schedule.until_due == 200


def test_rows_of_the_buffer_and_those_held_back_are_used_once_each() -> None:
    machine = Machine()
    machine.schedule.begin(fleet_version())
    values = rows(40)
    machine.feed(values)
    released = machine.held_back.release()
    assert released is not None
    warm = machine.schedule.estimate(BufferedRows(released.rows, released.breaks))
    assert warm is not None
    np.testing.assert_array_equal(warm.normal.rows, values)
    assert np.flatnonzero(warm.normal.breaks).tolist() == [0]


def test_rows_of_incidents_are_left_out() -> None:
    machine = Machine()
    machine.schedule.begin(fleet_version())
    machine.feed(rows(30))
    machine.schedule.estimate(NOTHING)
    machine.feed(rows(20, seed=1))
    machine.feed(rows(10, seed=2) + SHIFT, ABNORMAL)
    warm = machine.schedule.estimate(NOTHING)
    assert warm is not None
    assert len(warm.normal.rows) == 50


def test_an_estimate_by_which_nearly_all_later_events_are_abnormal_was_wrong() -> None:
    machine = Machine()
    machine.schedule.begin(fleet_version())
    machine.feed(rows(30) + SHIFT)
    machine.schedule.estimate(NOTHING)
    machine.feed(rows(30, seed=1), ABNORMAL)
    machine.schedule.estimate(NOTHING)
    machine.feed(rows(60, seed=2), ABNORMAL)
    warm = machine.schedule.estimate(NOTHING)
    assert warm is not None
    assert abs(warm.manifest.moments.mean[0]) < 1


def test_rows_without_a_whole_window_are_waited_with() -> None:
    machine = Machine()
    machine.schedule.begin(fleet_version())
    broken = BufferedRows(rows(30), np.ones(30, np.bool_))
    machine.recent.flags[:] = ABNORMAL
    machine.recent.count = 30
    assert machine.schedule.estimate(broken) is None
    assert machine.schedule.until_due == 4


@pytest.mark.parametrize("released", [False, True])
def test_held_events_follow_those_released_before(released: bool) -> None:
    machine = Machine()
    machine.feed(rows(20))
    if released:
        machine.held_back.release()
    machine.feed(rows(1), ABNORMAL)
    machine.feed(rows(2))
    held = machine.held_back.held()
    first = [] if released else [0]
    assert np.flatnonzero(held.breaks).tolist() == [*first, len(held.rows) - 2]
    assert len(held.rows) == (12 if released else 22)
