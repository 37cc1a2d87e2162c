from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.watch import replay, stress
from benchmarks.watch.changes import Recording
from benchmarks.watch.replay import Machine, Pace
from client.data.files.partitions import write_partition
from client.data.partition import Partition
from client.data.streams.schema import FIRST_EVENTS
from common.model.schema import Schema
from common.settings import DataSettings

PACE = Pace(slow_events=3, slow_rate=1.0, fast_rate=100.0)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    return Machine(Recording("m", ("a", "b"), rows, np.zeros(10, np.bool_), 5), tmp_path)


def sent(machine: Machine) -> list[dict[str, float]]:
    return [json.loads(line) for line in (machine.folder / "m.jsonl").read_text().splitlines()]


def test_events_are_due_slowly_at_first() -> None:
    pace = Pace(slow_events=10, slow_rate=2.0, fast_rate=100.0)
    assert [pace.due(s) for s in (0.0, 0.4, 0.5, 4.9, 5.0, 6.0)] == [0, 0, 1, 9, 10, 110]


def test_events_are_appended_once_with_times_an_interval_apart(machine: Machine) -> None:
    machine.write(FIRST_EVENTS)
    machine.write(3)
    machine.write(2)
    machine.write(99)
    assert [event["a"] for event in sent(machine)] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert [machine.timeline.index(event["ts"]) for event in sent(machine)] == list(range(10))


def test_a_client_gets_more_events_when_it_has_joined(machine: Machine, tmp_path: Path) -> None:
    machine.write(FIRST_EVENTS)
    machine.started_at = 100.0
    replay._feed(machine, tmp_path, PACE, 110.0)
    assert machine.written == FIRST_EVENTS
    (tmp_path / "fleet.json").write_text(json.dumps({"at": 0, "clients": {"m": {}}}))
    for now in (120.0, 121.0, 123.025):
        replay._feed(machine, tmp_path, PACE, now)
    assert machine.written == FIRST_EVENTS + 3 + 2


def test_a_late_client_gets_more_events_when_it_has_a_version(machine: Machine, tmp_path: Path) -> None:
    machine.late = True
    machine.write(FIRST_EVENTS)
    (tmp_path / "fleet.json").write_text(json.dumps({"at": 0, "clients": {"m": {}}}))
    for now in (10.0, 12.0):
        replay._feed(machine, tmp_path, PACE, now)
    assert machine.written == FIRST_EVENTS
    machine.state.mkdir()
    (machine.state / "candidate.safetensors").touch()
    for now in (20.0, 22.0):
        replay._feed(machine, tmp_path, PACE, now)
    assert machine.written == FIRST_EVENTS + 2


def test_a_client_that_never_joins_gets_its_events_all_the_same(machine: Machine, tmp_path: Path) -> None:
    machine.write(FIRST_EVENTS)
    replay._feed(machine, tmp_path, PACE, replay.JOIN_LIMIT_S)
    replay._feed(machine, tmp_path, PACE, replay.JOIN_LIMIT_S + 1)
    assert machine.written == FIRST_EVENTS + 1


@pytest.mark.parametrize(
    ("health", "given"),
    [
        ({}, False),
        ({"score": 1.0, "threshold": None}, False),
        ({"score": None, "threshold": 2.0}, False),
        ({"score": 0.0, "threshold": 2.0}, True),
    ],
)
def test_a_verdict_needs_a_score_and_a_threshold(health: dict[str, float | None], given: bool) -> None:
    assert replay.gives_verdicts(health) is given


def test_a_notice_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "notices.jsonl"
    assert replay.read_notices(path) == []
    path.write_text('{"kind": "flapping"}\n{"kind": "incid')
    assert replay.read_notices(path) == [{"kind": "flapping"}]


def test_a_recording_is_the_training_rows_and_then_the_test_rows(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(30, 2)
    labels = np.zeros(10, np.int8)
    labels[3] = 1
    part = Partition("m", Schema(("a", "b")), rows[:20], rows[20:], labels)
    write_partition(part, tmp_path / "m.parquet", DataSettings())
    (whole,) = replay.recordings(tmp_path)
    assert (whole.rows.tolist(), whole.test_from) == (rows.tolist(), 20)
    assert np.flatnonzero(whole.labels).tolist() == [23]
    (cut,) = replay.recordings(tmp_path, slice(-5, 4))
    assert (cut.rows.tolist(), cut.test_from) == (rows[15:24].tolist(), 5)
    assert np.flatnonzero(cut.labels).tolist() == [8]


def test_a_stress_ends_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    stress.memory(stress.BLOCK_BYTES, 0.1)
    stress.disk(str(tmp_path), 2 * stress.WRITE_BYTES, 0.1)
    assert time.monotonic() - began >= 0.2
    assert list(tmp_path.iterdir()) == []
