"""The detector process in this process: `run` in a thread, or until a file ends."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from client.connectors.sources import SourceError
from client.maintenance.checkpoint import saved_position
from client.service.process import DetectorProcess
from client.versions.version_store import VersionStore
from common.config import ConfigError
from common.settings import Settings
from server.flower.superlink_process import free_port
from tests.client.sample_versions import lines, rows, version
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def process(folder: Path, source: str, fixed: bool = False, **sections: dict) -> DetectorProcess:
    live = {"source": source, "sinks": (f"file:{folder / 'alerts.jsonl'}",), "incident_margin": 8}
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
    position = saved_position(tmp_path / "state", f"file:{path}")
    assert position is not None
    assert (position["inode"], position["offset"]) == (path.stat().st_ino, path.stat().st_size)


def test_the_first_objects_name_the_features_and_no_line_before_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b"1,2,3\n")
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        eventually(lambda: "the stream's 1 lines do not name them" in "; ".join(under_test.status().problems))
        assert under_test.status().events == 0
        append(path, b"4,5,6\n" + events(5) + b"7,8,9\n")
        eventually(lambda: under_test.status().events == 8)
        assert under_test.status().problems == ()
    assert json.loads((tmp_path / "state" / "schema.json").read_bytes()) == ["a", "b", "c"]


def test_a_version_that_training_offers_names_the_features(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.touch()
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        VersionStore(tmp_path / "state").offer(version(3).pack())
        eventually(lambda: under_test.status().version == 3)
        append(path, b"1,2,3\n")
        eventually(lambda: under_test.status().events == 1)


def test_metrics_are_answered_only_under_names_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.touch()
    port = free_port()
    live = {
        "source": f"file:{path}?follow=true",
        "status": f"127.0.0.1:{port}",
        "status_hosts": ("edge.example",),
    }
    settings = Settings().with_values(live=live)

    def code(host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with closing(connection):
            connection.request("GET", "/metrics", headers={"Host": host})
            return connection.getresponse().status

    def answers() -> bool:
        with suppress(ConnectionError):
            return code("localhost") == 200
        return False

    with running(DetectorProcess(settings, tmp_path / "state", "edge")):
        assert eventually(answers)
        assert [code("edge.example:9100"), code("attacker.example")] == [200, 421]


def test_a_stop_before_the_features_are_known_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b"1,2,3\n")
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        eventually(lambda: bool(under_test.status().problems))
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
    assert np.median(np.diff(replayed._parts.detector.recent.times[:50])) == 60  # type: ignore[union-attr]
    with running(process(tmp_path / "2", "host:?interval_s=0.05", data=data)) as host:
        eventually(lambda: host.status().events > 1)
        assert host.status().refused == {}
    features = json.loads((tmp_path / "2" / "state" / "schema.json").read_bytes())
    assert "load_1" in features and not {"ts", "time"} & set(features)


def test_a_sensor_that_goes_silent_costs_no_event_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    silent = [json.loads(line) | {"b": "unavailable"} for line in lines(rows(300), start=1e9 + 60 * 300)]
    path.write_bytes(events(300) + "".join(json.dumps(event) + "\n" for event in silent).encode())
    under_test = process(tmp_path, f"file:{path}", fixed=True)
    assert under_test.run() == 0
    assert under_test.status().events == 600 and under_test.status().refused == {}
    (received,) = [notice for notice in notices(tmp_path) if notice["kind"] == "sensor_silent"]
    assert "'b' has had no value" in received["text"]
    assert any("'b' has had no value" in problem for problem in under_test.status().problems)


def test_a_silence_within_a_recording_is_reported_with_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    table = [json.loads(line) for line in lines(rows(1800))]
    for event in table[600:1200]:
        event["b"] = None
    path.write_text("".join(json.dumps(event) + "\n" for event in table))
    under_test = process(tmp_path, f"file:{path}", fixed=True)
    assert under_test.run() == 0
    received = [notice for notice in notices(tmp_path) if notice["kind"] == "sensor_silent"]
    assert [notice["ended"] is None for notice in received] == [True, False]
    assert len({notice["id"] for notice in received}) == 1
    assert (received[1]["events"], received[1]["ended"]) == (600, table[1200]["ts"])


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("row", ["1764547200;1,5;2,5;3,5", "1764547200;1;2;3"])
def test_a_file_with_semicolons_is_named_as_such(tmp_path: Path, row: str, fixed: bool) -> None:
    path = tmp_path / "events.csv"
    path.write_text("ts;a;b;c\n" + f"{row}\n" * 50)
    under_test = process(tmp_path, f"file:{path}", fixed=fixed)
    if fixed:
        with pytest.raises(SourceError, match="separated by ';'"):
            under_test.run()
    else:
        assert under_test.run() == 1
        assert any("separated by ';'" in problem for problem in under_test.status().problems)


def test_fields_that_are_no_features_are_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    odd = {"uptime": 5}
    tagged = [json.loads(line) | {"host": "web", "tags": ["x"]} for line in lines(rows(50))]
    path.write_text("".join(json.dumps(event) + "\n" for event in [odd, *tagged]))
    under_test = process(tmp_path, f"file:{path}")
    assert under_test.run() == 0
    status = under_test.status()
    assert (status.stream.features, status.stream.time) == (("a", "b", "c"), "ts")
    assert status.stream.ignored["host"] == "text, such as 'web'"
    assert status.events == 50
    assert status.problems == ()


@pytest.mark.parametrize("header", [b"x,y,z", b"a,b", b"a,b,c,a"])
def test_a_file_with_a_header_that_does_not_fit_ends_the_process(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(header + b"\n" + b"1,2,3\n" * 50)
    with pytest.raises(SourceError, match="the header names"):
        process(tmp_path, f"file:{path}", fixed=True).run()


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("line", [b"hello", b'{"a": "49.8%"}', b"climate,room=hall temperature=20.65"])
def test_a_file_without_any_event_is_a_failure(tmp_path: Path, line: bytes, fixed: bool) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b"\n".join([line] * 50))
    assert process(tmp_path, f"file:{path}", fixed=fixed).run() == 1


def test_a_file_without_any_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.touch()
    assert process(tmp_path, f"file:{path}", fixed=True).run() == 0


def test_features_are_chosen_again_while_no_version_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(b'{"uptime": 1}\n' * 5)
    with running(process(tmp_path, f"file:{path}?follow=true")) as under_test:
        eventually(lambda: under_test.status().stream.features == ("uptime",))
        append(path, events(100))
        eventually(lambda: under_test.status().stream.features == ("a", "b", "c"))
        append(path, events(100))
        eventually(lambda: under_test.status().events >= 100)
    assert json.loads((tmp_path / "state" / "schema.json").read_bytes()) == ["a", "b", "c"]
