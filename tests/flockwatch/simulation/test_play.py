"""Generated machines on a real broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pyarrow.parquet
import pytest

from client.connectors.addresses import AddressError
from client.connectors.sources import open_source
from flockwatch.simulation.play import FAULT_S, WEEK, _faults, history, play
from flockwatch.simulation.telemetry import METRICS
from tests.contracts.broker import Broker

RATE = 50.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "broker")
    yield running
    running.stop()


def heard(broker: Broker, topic: str, events: int) -> list[dict[str, float]]:
    """What a machine's own client gets to read while three machines play."""
    source = open_source(f"mqtt://127.0.0.1:{broker.port}/{topic}?client_id=reader", None)
    deadline = time.monotonic() + 60
    while source.problem is not None:
        assert time.monotonic() < deadline, source.problem
        time.sleep(0.02)
    stop = threading.Event()
    address = f"mqtt://127.0.0.1:{broker.port}/machines"
    player = threading.Thread(target=play, args=(address, 3, RATE, 1.0, 1.0, 7, stop))
    player.start()
    lines: list[bytes] = []
    try:
        while len(lines) < events:
            assert time.monotonic() < deadline
            lines += source.read(0.2)
    finally:
        stop.set()
        player.join()
        source.close()
    return [json.loads(line) for line in lines[:events]]


def test_each_machine_has_a_topic_of_its_own_and_its_fault_shows_in_the_metric_that_is_logged(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    events = heard(broker, "machines/machine-1", round(1.5 * RATE))
    assert {tuple(event) for event in events} == {("ts", *METRICS)}
    assert sorted(event["ts"] for event in events) == [event["ts"] for event in events]
    begin = next(message for message in caplog.messages if "machine=machine-1 " in message)
    metric = begin.rpartition("metric=")[2]
    before, after = events[: round(RATE)], events[round(RATE) :]
    assert min(event[metric] for event in after) > max(event[metric] for event in before)


def test_the_history_of_a_machine_is_the_week_before_the_one_that_is_played(tmp_path: Path) -> None:
    files = history(2, 7, tmp_path)
    assert [file.name for file in files] == ["machine-1.parquet", "machine-2.parquet"]
    assert {pyarrow.parquet.read_table(file).num_rows for file in files} == {WEEK}


def test_faults_come_to_the_machines_in_turn_and_none_outlasts_the_next() -> None:
    faults = list(islice(_faults(3, 5.0, 60.0, 120.0, seed=1), 7))
    assert [fault.machine for fault in faults] == [0, 1, 2, 0, 1, 2, 0]
    assert [fault.begin for fault in faults[:3]] == [600, 900, 1200]
    assert {fault.end - fault.begin for fault in faults} == {round(5 * FAULT_S)}
    crowded = list(islice(_faults(3, 5.0, 0.1, 0.1, seed=1), 7))
    assert all(one.begin < one.end < other.begin for one, other in pairwise(crowded))


def test_an_address_that_names_no_topic_is_refused() -> None:
    with pytest.raises(AddressError, match="no topic"):
        play("mqtt://broker", 1, 1.0, 60.0, 60.0, 1, threading.Event())
