from __future__ import annotations

import math
from pathlib import Path

import pytest

from client.connectors.sources import EndOfStreamError, Source, SourceError, open_source
from client.connectors.sources.replay import MAX_LAG_S, FixedRate, RecordedTimes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drain(source: Source) -> list[bytes]:
    events: list[bytes] = []
    try:
        while True:
            events += source.read(1.0)
    except EndOfStreamError:
        source.close()
        return events


def test_a_fixed_rate_spaces_events_evenly_and_limits_the_burst_after_a_pause() -> None:
    clock = Clock()
    schedule = FixedRate(10, clock)
    assert [schedule.due(b"") for _ in range(3)] == pytest.approx([100.0, 100.1, 100.2])
    clock.now += 60
    assert schedule.due(b"") == pytest.approx(clock.now - MAX_LAG_S)


def test_recorded_times_are_divided_by_the_speed() -> None:
    times = RecordedTimes("log", 60, table=False, clock=Clock())
    events = [b'{"ts": 1000}', b'{"ts": 1060}', b'{"ts": "x"}', b"no event", b'{"ts": 1090}']
    assert [times.due(event) for event in events] == [100.0, 101.0, 101.0, 101.0, 101.5]


def test_a_timestamp_that_goes_back_restarts_the_replay() -> None:
    clock = Clock()
    times = RecordedTimes("log", 1, table=False, clock=clock)
    times.due(b'{"ts": 5000}')
    clock.now = 300.0
    assert [times.due(b'{"ts": 1000}'), times.due(b'{"ts": 1001}')] == [300.0, 301.0]


def test_a_table_has_its_times_in_the_column_that_its_header_names() -> None:
    times = RecordedTimes("log.csv", 1, table=True, timestamp="when", clock=Clock())
    assert times.due(b"cpu, when") == -math.inf
    assert [times.due(b"1,50"), times.due(b"2"), times.due(b"3,52")] == [100.0, 100.0, 102.0]


@pytest.mark.parametrize(("table", "event"), [(False, b'{"ts": 1}'), (True, b"ts,cpu")])
def test_a_recording_without_the_time_column_is_an_error_that_names_the_setting(
    table: bool, event: bytes
) -> None:
    with pytest.raises(SourceError, match=r"log: .*'time'.*data\.timestamp"):
        RecordedTimes("log", 1, table, timestamp="time").due(event)


@pytest.mark.parametrize("options", ["speed=1e6", "rate=1e6", ""])
def test_a_file_is_replayed_whole_whatever_its_time_column_is_called(options: str, tmp_path: Path) -> None:
    path = tmp_path / "time.csv"
    lines = [b"time,cpu", *(b"%d,%d" % (1764547200 + 60 * i, i) for i in range(300))]
    path.write_bytes(b"\n".join(lines))
    assert drain(open_source(f"file:{path}?{options}", None, "time")) == lines
