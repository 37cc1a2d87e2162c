"""The detector process in this process: `run` in a thread, or until a file ends."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.service.checkpoint import saved_position
from client.service.process import DetectorProcess
from client.versions.version_store import VersionStore
from common.config import ConfigError
from common.settings import Settings
from tests.client.sample_versions import lines, rows, version


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def process(folder: Path, source: str, fixed: bool = False, **sections: dict) -> DetectorProcess:
    live = {"source": source, "sinks": (f"file:{folder / 'alerts.jsonl'}",), "quarantine": 8}
    settings = Settings().with_values(**{"live": live, "threshold": {"value": 50.0}, **sections})
    return DetectorProcess(settings, folder / "state", "edge", fixed=version(7) if fixed else None)


@contextmanager
def running(under_test: DetectorProcess) -> Iterator[DetectorProcess]:
    thread = threading.Thread(target=under_test.run)
    thread.start()
    try:
        yield under_test
    finally:
        under_test.stop()
        thread.join(60)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def events(count: int, seed: int = 0) -> bytes:
    return b"".join(line + b"\n" for line in lines(rows(count, seed)))


def notices(folder: Path) -> list[dict]:
    path = folder / "alerts.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def test_a_stream_without_a_source_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'live\.source' is not set"):
        DetectorProcess(Settings(), tmp_path, "edge")


def test_an_incident_that_is_open_at_the_end_of_the_stream_is_ended_and_the_position_saved(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    fault = rows(5)
    fault[:, 1] += 5000
    path.write_bytes(events(300) + b"".join(line + b"\n" for line in lines(fault)))
    under_test = process(tmp_path, f"file:{path}", fixed=True)
    under_test.run()
    assert [notice["kind"] for notice in notices(tmp_path)] == ["incident_started", "incident_ended"]
    status = under_test.status()
    assert (status.version, status.events, status.alerts, status.incident_open) == (7, 305, 5, False)
    assert sum(under_test.status().refused.values()) == 0
    assert saved_position(tmp_path / "state", f"file:{path}") == {
        "inode": path.stat().st_ino,
        "offset": path.stat().st_size,
    }


def test_the_first_object_names_the_features_and_is_scored_with_all_lines_read_with_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b"1,2,3\n")
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        wait_for(lambda: "the stream's 1 lines do not name them" in "; ".join(under_test.status().problems))
        assert under_test.status().events == 0
        append(path, b"4,5,6\n" + events(2) + b"7,8,9\n")
        wait_for(lambda: under_test.status().events == 4)
        assert under_test.status().problems == ()
    assert json.loads((tmp_path / "state" / "schema.json").read_bytes()) == ["a", "b", "c"]


def test_a_version_that_training_offers_names_the_features(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.touch()
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        VersionStore(tmp_path / "state").offer(version(3).pack())
        wait_for(lambda: under_test.status().version == 3)
        append(path, b"1,2,3\n")
        wait_for(lambda: under_test.status().events == 1)


def test_a_stop_before_the_features_are_known_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b"1,2,3\n")
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        wait_for(lambda: bool(under_test.status().problems))
    assert saved_position(tmp_path / "state", f"file:{path}?follow=true") is None


def test_no_event_is_lost_between_two_processes_however_often_they_stop(tmp_path: Path) -> None:
    path, total = tmp_path / "events.jsonl", 0
    path.touch()
    for seed in range(5):
        under_test = process(tmp_path, f"file:{path}?follow=true", fixed=True)
        with running(under_test):
            append(path, events(700, seed))
        total += under_test.status().events
    last = process(tmp_path, f"file:{path}", fixed=True)
    saved = tmp_path / "state" / "source.json"
    saved.write_text(saved.read_text().replace("?follow=true", ""))
    last.run()
    assert total + last.status().events == 3500


def test_the_time_column_is_the_one_of_the_settings_for_replay_and_for_host_metrics(tmp_path: Path) -> None:
    data = {"timestamp": "time"}
    path = tmp_path / "time.csv"
    table = [b"time,a,b,c", *(b"%d,%g,%g,%g" % (1764547200 + 60 * i, *row) for i, row in enumerate(rows(50)))]
    path.write_bytes(b"\n".join(table))
    replayed = process(tmp_path / "1", f"file:{path}?speed=1e6", fixed=True, data=data)
    replayed.run()
    assert replayed.status().events == 50
    assert np.median(np.diff(replayed._detector.recent.times[:50])) == 60  # type: ignore[union-attr]
    with running(process(tmp_path / "2", "host:?interval_s=0.05", data=data)) as host:
        wait_for(lambda: host.status().events > 1)
        assert host.status().refused == {}
    features = json.loads((tmp_path / "2" / "state" / "schema.json").read_bytes())
    assert "load_1" in features and not {"ts", "time"} & set(features)
