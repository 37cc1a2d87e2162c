"""Streams are played at their rate, with faults, to any transport and to a real broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from client.connectors.addresses import AddressError
from client.connectors.sources import open_source
from flockwatch.simulation.player import (
    FAULT_S,
    FAULT_STDS,
    WEEK,
    Fault,
    Stream,
    faults_in_turn,
    play,
    publish,
    write_history,
)
from flockwatch.simulation.telemetry import METRICS
from tests.contracts.broker import Broker
from tests.waiting import PATIENCE_S, eventually

RATE = 50.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "broker")
    yield running
    running.stop()


def read_events(broker: Broker, topic: str, events: int) -> list[dict[str, float]]:
    """Return the events that a client of one machine reads while three machines are played."""
    source = open_source(f"mqtt://127.0.0.1:{broker.port}/{topic}?client_id=reader", None)
    eventually(lambda: source.problem is None)
    stop = threading.Event()
    address = f"mqtt://127.0.0.1:{broker.port}/machines"
    player = threading.Thread(target=publish, args=(address, 3, RATE, 1.0, 1.0, 7, stop))
    player.start()
    lines: list[bytes] = []
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(lines) < events:
            assert time.monotonic() < deadline
            lines += source.read(0.2)
    finally:
        stop.set()
        player.join()
        source.close()
    return [json.loads(line) for line in lines[:events]]


def test_each_machine_has_its_own_topic_and_its_fault_shows_in_the_metric_that_is_logged(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    events = read_events(broker, "machines/machine-1", round(1.5 * RATE))
    assert {tuple(event) for event in events} == {("ts", *METRICS)}
    assert sorted(event["ts"] for event in events) == [event["ts"] for event in events]
    begin = next(message for message in caplog.messages if "machine=machine-1 " in message)
    metric = begin.rpartition("metric=")[2]
    before, after = events[: round(RATE)], events[round(RATE) :]
    assert min(event[metric] for event in after) > max(event[metric] for event in before)


def test_the_history_of_a_machine_is_the_week_before_the_played_one(tmp_path: Path) -> None:
    files = write_history(2, 7, tmp_path)
    assert [file.name for file in files] == ["machine-1.parquet", "machine-2.parquet"]
    assert {pyarrow.parquet.read_table(file).num_rows for file in files} == {WEEK}


def stream(name: str, events: int, **options: Any) -> Stream:
    rows = np.arange(2 * events, dtype=np.float32).reshape(events, 2)
    return Stream(name, ("a", "b"), rows, "ts", **options)


def test_streams_are_sent_side_by_side_to_their_end_and_the_fault_is_in_one_feature() -> None:
    sent: list[tuple[int, dict[str, float]]] = []
    waits: list[float] = []
    streams = [stream("one", 4, start_s=100.0, interval_s=60.0), stream("two", 2, start_s=0.0)]
    steps = list(
        play(streams, [Fault(0, 1, 1, 3)], 1e6, lambda i, e: sent.append((i, json.loads(e))), waits.append)
    )
    fault = Fault(0, 1, 1, 3)
    assert steps == [(1, None), (2, fault), (3, fault), (4, None)]
    assert [machine for machine, _ in sent] == [0, 1, 0, 1, 0, 0]
    events = [event for machine, event in sent if machine == 0]
    assert [event["ts"] for event in events] == [100, 160, 220, 280]
    assert [event["a"] for event in events] == [0, 2, 4, 6]
    added = FAULT_STDS * np.std([1, 3, 5, 7])
    assert [event["b"] for event in events] == pytest.approx([1, 3 + added, 5 + added, 7])
    assert len(waits) == 4


def test_a_stream_that_repeats_has_no_end_and_the_present_time() -> None:
    sent: list[dict[str, float]] = []
    played = play([stream("one", 2, repeat=True)], [], 1e6, lambda _, event: sent.append(json.loads(event)))
    assert [next(played) for _ in range(5)] == [(i + 1, None) for i in range(5)]
    assert [event["a"] for event in sent] == [0, 2, 0, 2, 0]
    assert time.time() - sent[0]["ts"] < 60


def test_machines_have_faults_in_turn_that_do_not_overlap() -> None:
    faults = list(islice(faults_in_turn(3, 5.0, 60.0, 120.0, seed=1), 7))
    assert [fault.machine for fault in faults] == [0, 1, 2, 0, 1, 2, 0]
    assert [fault.begin for fault in faults[:3]] == [600, 900, 1200]
    assert {fault.end - fault.begin for fault in faults} == {round(5 * FAULT_S)}
    crowded = list(islice(faults_in_turn(3, 5.0, 0.1, 0.1, seed=1), 7))
    assert all(one.begin < one.end < other.begin for one, other in pairwise(crowded))


def test_an_address_without_a_topic_is_refused() -> None:
    with pytest.raises(AddressError, match="no topic"):
        publish("mqtt://broker", 1, 1.0, 60.0, 60.0, 1, threading.Event())
