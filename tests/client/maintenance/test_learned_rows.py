"""The rows that a machine learns from, day after day."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from client.buffers.daily_habits import UNKNOWN, DailyHabits
from client.buffers.held_back import HeldBackEvents
from client.buffers.recent_events import ABNORMAL, NORMAL, RecentEvents
from client.maintenance.learned_rows import LearnedRows
from client.maintenance.problems import Problems
from common.model.histogram import ScoreHistogram
from common.model.schema import Schema

INTERVAL_S, DAY_EVENTS, MARGIN = 300.0, 288, 32
USUAL, UNUSUAL, ALERT = 1.0, 50.0, 100.0


class Machine:
    """A machine with an event every five minutes, which are released and learned one after the other."""

    def __init__(self, folder: Path, days: int | None = 3) -> None:
        habits, schema = DailyHabits(days), Schema(("disk", "memory"))
        self.recent = RecentEvents(2)
        self.held_back = HeldBackEvents(self.recent, MARGIN, habits)
        self.learned = LearnedRows(folder, schema, 50_000, Problems(), habits)
        self.learned.open()
        self.scores = ScoreHistogram.of(np.linspace(0.5, 1.5, 1000, dtype=np.float32))

    def live(self, score: float, flag: int = NORMAL, cause: int = UNKNOWN) -> None:
        recent, slot = self.recent, self.recent.count % self.recent.size
        recent.rows[slot] = recent.count, score
        recent.times[slot], recent.scores[slot] = INTERVAL_S * recent.count, score
        recent.versions[slot], recent.flags[slot], recent.causes[slot] = 1, flag, cause
        recent.count += 1
        if (events := self.held_back.release()) is not None:
            self.learned.add(events, self.scores)

    def live_day(self, at: int, score: float, flag: int, cause: int = UNKNOWN, events: int = 4) -> None:
        for event in range(DAY_EVENTS):
            if at <= event < at + events:
                self.live(score, flag, cause)
            else:
                self.live(USUAL)

    def learned_by_day(self, score: float) -> dict[int, int]:
        """Return the number of events with a score that were learned from, by the day on which they came."""
        rows = self.learned.contents().rows
        return dict(Counter((rows[rows[:, 1] == score, 0] // DAY_EVENTS).astype(int).tolist()))


def test_a_nightly_incident_is_learned_from_the_third_night_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path)
    with caplog.at_level("INFO"):
        for day in range(5):
            machine.live_day(36 + 3 * day, ALERT, ABNORMAL, cause=0)
        machine.live_day(200, USUAL, NORMAL)
    assert machine.learned_by_day(ALERT) == {2: 4, 3: 4, 4: 4}
    assert caplog.messages == ['daily habit learned feature="disk"']
    # On the first two nights 32 events before and after the incident are left out too.
    assert len(machine.learned) == 6 * DAY_EVENTS - MARGIN - 2 * (4 + 2 * MARGIN)


def test_incidents_of_several_causes_or_at_several_times_are_not_learned(tmp_path: Path) -> None:
    other_causes, other_times = ([36] * 5, [0, 1, UNKNOWN, 2, 3]), ([36, 96, 156, 216] * 2, [0] * 8)
    for number, (times, causes) in enumerate((other_causes, other_times)):
        machine = Machine(tmp_path / str(number))
        for at, cause in zip(times, causes, strict=True):
            machine.live_day(at, ALERT, ABNORMAL, cause)
        assert machine.learned_by_day(ALERT) == {}


def test_a_fault_beside_a_habit_is_not_learned(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for _ in range(3):
        machine.live_day(36, ALERT, ABNORMAL, cause=0)
    machine.live_day(38, 2 * ALERT, ABNORMAL, cause=1)
    machine.live_day(200, USUAL, NORMAL)
    assert machine.learned_by_day(ALERT) == {2: 4}
    assert machine.learned_by_day(2 * ALERT) == {}


def test_unusual_events_without_an_alert_are_learned_if_they_come_daily(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for _ in range(4):
        machine.live_day(36, UNUSUAL, NORMAL)
    assert machine.learned_by_day(UNUSUAL) == {2: 4, 3: 4}
    assert machine.learned.left_out == 8


def test_without_habit_days_nothing_unusual_is_learned(tmp_path: Path) -> None:
    machine = Machine(tmp_path, days=None)
    for _ in range(6):
        machine.live_day(36, ALERT, ABNORMAL, cause=0)
    assert machine.learned_by_day(ALERT) == {}
