from __future__ import annotations

import numpy as np
import pytest

from client.buffers.recent_events import RecentEvents
from client.service.stream_watch import Moment, StreamWatch
from common.protocol.alerts import Notice
from common.settings import LiveSettings

START = 1_764_547_200.0
NAN = float("nan")


class Stream:
    """A stream of two features with a clock that the test moves."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self.recent = RecentEvents(2)
        self.interval_s, self.now, self.refused = interval_s, 0.0, 0
        self.events_ahead_s = self.machine_ahead_s = 0.0
        """By how much the times of events and the machine's clock are wrong."""
        self.watch = StreamWatch("edge", ("temp", "flow"), LiveSettings(), self.moment())

    def moment(self) -> Moment:
        return Moment(1000 + self.now, START + self.now + self.machine_ahead_s)

    def pass_time(self, seconds: float) -> list[Notice]:
        self.now += seconds
        return self.look()

    def look(self) -> list[Notice]:
        return self.watch.look(self.recent, self.refused, "'temp' is '49.8%'", self.moment())

    def send(self, count: int, *row: float) -> list[Notice]:
        notices: list[Notice] = []
        for _ in range(count):
            self.now += self.interval_s
            slot = self.recent.count % self.recent.size
            self.recent.rows[slot] = row
            self.recent.times[slot] = START + self.now + self.events_ahead_s
            self.recent.count += 1
            notices += self.look()
        return notices

    def refuse(self, count: int) -> list[Notice]:
        notices: list[Notice] = []
        for _ in range(count):
            self.now += self.interval_s
            self.refused += 1
            notices += self.look()
        return notices


def kinds(notices: list[Notice]) -> list[tuple[str, bool]]:
    """The kind of each notice, and whether it says that something has ended."""
    return [(notice.kind, notice.ended is not None) for notice in notices]


def test_a_regular_stream_causes_no_notice() -> None:
    stream = Stream()
    assert stream.send(500, 1, 2) == []
    assert stream.watch.problems() == []


def test_a_sensor_without_values_is_reported_once_and_again_when_it_is_back() -> None:
    stream = Stream()
    stream.send(100, 1, 2)
    assert stream.send(29, 1, NAN) == []
    (notice,) = stream.send(300, 1, NAN)
    assert (notice.kind, notice.ended, notice.started) == ("sensor_silent", None, START + 1010)
    assert notice.alert is None and notice.text is not None
    assert "'flow' has had no value in the last 30 events; before, in 100% of the events" in notice.text
    assert stream.watch.problems() == [
        "'flow' has had no value in the last 329 events; before, in 100% of the events"
    ]
    (back,) = stream.send(5, 1, 2)
    assert (back.kind, back.id, back.ended) == ("sensor_silent", notice.id, START + stream.now - 40)
    assert stream.watch.problems() == []
    assert Notice.unpack(back.pack()) == back


def test_a_fast_stream_waits_for_the_time_of_the_setting() -> None:
    stream = Stream(interval_s=0.1)
    stream.send(100, 1, 2)
    assert stream.send(590, NAN, 2) == []
    assert kinds(stream.send(20, NAN, 2)) == [("sensor_silent", False)]


def test_a_sensor_that_never_had_a_value_is_reported() -> None:
    assert kinds(Stream().send(40, NAN, 2)) == [("sensor_silent", False)]


def test_a_sensor_that_is_usually_absent_is_not_reported() -> None:
    stream = Stream()
    for _ in range(10):
        assert stream.send(1, 1, 2) + stream.send(29, 1, NAN) == []
    assert stream.send(200, 1, NAN) == []


def test_many_events_at_once_are_reported_as_one_by_one() -> None:
    stream = Stream()
    stream.recent.rows[:300], stream.recent.times[:300] = 1, START + np.arange(300)
    stream.recent.rows[100:300, 1] = NAN
    stream.recent.count = 300
    (notice,) = stream.look()
    assert (notice.started, notice.events) == (START + 100, 200)


def test_a_stream_that_stops_is_reported_and_again_when_it_continues() -> None:
    stream = Stream()
    stream.send(100, 1, 2)
    assert stream.pass_time(590) == []
    (notice,) = stream.pass_time(20)
    assert (notice.kind, notice.started) == ("stream_silent", START + 1000)
    assert notice.text == "no event for 10 minutes; usually one every 10 s"
    assert stream.pass_time(7200) == []
    assert stream.watch.problems() == ["no event for 2 hours; usually one every 10 s"]
    assert kinds(stream.send(3, 1, 2)) == [("stream_silent", True)]
    assert stream.watch.problems() == []


def test_a_slow_stream_is_silent_after_many_of_its_intervals() -> None:
    stream = Stream(interval_s=300)
    stream.send(20, 1, 2)
    assert stream.pass_time(5900) == []
    assert kinds(stream.pass_time(200)) == [("stream_silent", False)]


def test_a_stream_that_never_starts_is_reported() -> None:
    stream = Stream()
    assert kinds(stream.pass_time(601)) == [("stream_silent", False)]
    assert kinds(stream.send(1, 1, 2)) == [("stream_silent", True)]


def test_refused_lines_are_a_problem_at_once_and_a_notice_after_a_while() -> None:
    stream = Stream(interval_s=1)
    stream.send(100, 1, 2)
    assert stream.refuse(50) == []
    assert stream.watch.problems() == []
    (notice,) = stream.refuse(120)
    assert (notice.kind, notice.ended) == ("events_refused", None)
    assert notice.text is not None and "the newest: 'temp' is '49.8%'" in notice.text
    assert "of the last" in stream.watch.problems()[0]
    assert kinds(stream.send(120, 1, 2)) == [("events_refused", True)]
    assert stream.watch.problems() == []


def test_a_few_refused_lines_are_no_problem() -> None:
    stream = Stream(interval_s=1)
    assert stream.refuse(5) == []
    for _ in range(50):
        assert stream.send(3, 1, 2) + stream.refuse(1) == []
    assert stream.watch.problems() == []


def test_a_sensor_that_does_not_change_any_more_is_reported_once_and_again_when_it_changes() -> None:
    stream = Stream()
    for i in range(400):
        assert stream.send(1, i % 7, -i) == []
    (notice,) = stream.send(60, 3, -i)
    assert (notice.kind, notice.started, notice.events) == ("sensor_stuck", START + 4000 + 10, 31)
    assert (
        notice.text == "'temp' has been 3 in the last 31 events; before, it was never the same in more than 1"
    )
    assert stream.watch.problems() == [notice.text.replace("31", "60")]
    (ended,) = stream.send(1, 4, 1)
    assert (ended.kind, ended.id, ended.text) == ("sensor_stuck", notice.id, "'temp' changes again")
    assert stream.watch.problems() == []


def test_a_constant_a_coarse_an_idle_and_a_new_sensor_are_not_stuck() -> None:
    stream = Stream()
    for i in range(400):
        stream.send(1, 5, i // 2 % 5)
    assert stream.send(200, 5, 2) == []
    idle = Stream()
    for i in range(400):
        idle.send(1, i % 7, i % 5)
    assert idle.send(200, 0, 4) == []
    new = Stream()
    for i in range(200):
        new.send(1, i % 7, i % 5)
    assert new.send(200, 3, 3) == []


def test_a_run_as_long_as_an_earlier_one_is_usual_and_a_missing_value_is_none() -> None:
    stream = Stream()
    for i in range(2000):
        stream.send(1, i % 7 if i % 500 > 20 else 3, i % 5)
    assert stream.send(60, 3, i % 5) == []
    assert "sensor_stuck" in {notice.kind for notice in stream.send(40, 3, 9)}
    assert {notice.kind for notice in stream.send(300, NAN, 9)} == {"sensor_silent", "sensor_stuck"}


JUMPS = (3600.0, -3600.0, 10 * 365 * 86400.0, -10 * 365 * 86400.0)
"""Seconds by which a clock is set: by an hour and by ten years, forwards and backwards."""


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_stream_s_clock_neither_makes_a_sensor_silent_nor_hides_that_it_is(jump: float) -> None:
    stream = Stream(interval_s=0.1)
    stream.send(100, 1, 2)
    assert stream.send(100, 1, NAN) == [], "10 s without a value"
    stream.events_ahead_s = jump
    assert stream.send(400, 1, NAN) == [], "50 s"
    (notice,) = stream.send(150, 1, NAN)
    assert (notice.kind, notice.started) == ("sensor_silent", pytest.approx(START + 10.1))
    (back,) = stream.send(1, 1, 2)
    assert back.id == notice.id and back.ended is not None and back.ended >= notice.started
    assert stream.watch.problems() == []


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_stream_s_clock_neither_makes_a_sensor_stuck_nor_hides_that_it_is(jump: float) -> None:
    stream = Stream(interval_s=0.1)
    for i in range(4000):
        stream.send(1, i % 7, -i)
    assert stream.send(100, 3, -i) == []
    stream.events_ahead_s = jump
    assert kinds(stream.send(400, 3, -i)) == [], "50 s with the same value"
    (notice,) = stream.send(150, 3, -i)
    assert (notice.kind, notice.started) == ("sensor_stuck", pytest.approx(START + 400.1))
    (back,) = stream.send(1, 4, 1)
    assert back.id == notice.id and back.ended is not None and back.ended >= notice.started


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_machine_s_clock_neither_makes_a_stream_silent_nor_hides_that_it_is(
    jump: float,
) -> None:
    stream = Stream()
    stream.send(100, 1, 2)
    stream.machine_ahead_s = stream.events_ahead_s = jump  # events without a timestamp have the machine's
    assert stream.look() == []
    assert stream.pass_time(590) == []
    (notice,) = stream.pass_time(20)
    assert (notice.kind, notice.started) == ("stream_silent", START + 1000)
    (back,) = stream.send(1, 1, 2)
    assert back.id == notice.id and back.ended is not None and back.ended >= notice.started
    assert stream.send(500, 1, 2) == []


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_machine_s_clock_during_a_silence_ends_it_at_the_next_event(jump: float) -> None:
    stream = Stream()
    stream.send(100, 1, 2)
    assert kinds(stream.pass_time(620)) == [("stream_silent", False)]
    stream.machine_ahead_s = stream.events_ahead_s = jump
    assert stream.pass_time(60) == []
    assert stream.watch.problems() == ["no event for 11 minutes; usually one every 10 s"]
    (back,) = stream.send(1, 1, 2)
    assert back.kind == "stream_silent" and back.ended is not None and back.ended >= back.started


def test_a_silent_sensor_of_a_clock_that_jumps_to_and_fro_is_reported() -> None:
    stream = Stream(interval_s=0.1)
    stream.send(100, 1, 2)
    notices = []
    for i in range(80):
        stream.events_ahead_s = -3600.0 if i % 2 else 0.0
        notices += stream.send(10, 1, NAN)
    assert kinds(notices) == [("sensor_silent", False)]
