"""The progress of a client towards training, and what it logs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from client.buffers.training_buffer import write_wanted
from client.maintenance.learning_progress import LOG_EVERY_S, LearningProgress
from common.settings import Settings


def progress(folder: Path, **client: object) -> LearningProgress:
    return LearningProgress(folder, Settings().with_values(client=client), features=4)


def test_the_remaining_time_follows_from_the_events_received(tmp_path: Path) -> None:
    one = progress(tmp_path, min_rows=500)
    one.update(0, 1, now=100.0)
    assert (one.learning.rows, one.learning.wanted, one.learning.remaining_s) == (0, 500, None)
    one.update(300, 331, now=430.0)
    assert str(one.learning) == "learning 300 of 500 events, about 3 minutes"
    one.update(500, 531, now=630.0)
    assert one.learning.done


def test_the_remaining_time_includes_the_events_that_are_held_back(tmp_path: Path) -> None:
    one = progress(tmp_path, min_rows=500)
    one.update(0, 1, now=100.0)
    one.update(0, 11, now=110.0)
    assert one.learning.remaining_s == 500 + Settings().live.incident_margin - 11


def test_what_the_trainer_wants_counts_more_than_the_clients_own_settings(tmp_path: Path) -> None:
    one = progress(tmp_path)
    one.update(120, 150, now=1.0)
    assert one.learning.done  # of 100, the default
    write_wanted(tmp_path, 300)
    one.update(121, 151, now=2.0)
    assert (one.learning.wanted, one.learning.done) == (300, False)


def test_with_a_data_file_no_events_are_wanted_until_the_trainer_records_a_number(tmp_path: Path) -> None:
    one = progress(tmp_path, data=Path("rows.csv"))
    one.update(0, 1, now=1.0)
    assert one.learning.done


def test_progress_is_logged_at_first_at_each_doubling_each_minute_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = progress(tmp_path, min_rows=100)
    caplog.set_level(logging.INFO)
    for second in range(120):
        one.update(second, second, now=float(second))
    rows = [int(message.split()[1]) for message in caplog.messages]
    assert rows == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert caplog.messages[0] == "learning 0 of 100 events"
    assert caplog.messages[-1] == "has 100 events to learn from"
    slow = progress(tmp_path, min_rows=100)
    caplog.clear()
    for second in range(int(3 * LOG_EVERY_S)):
        slow.update(50, 50, now=float(second))
    assert caplog.messages == ["learning 50 of 100 events"] * 3
