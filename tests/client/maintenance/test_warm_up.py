"""The warm-up in a detector with its maintenance, on streams of a machine that the fleet has not met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.detection.adaptive_threshold import MAX_FIRST_RISE
from client.detection.detector import Detector
from client.maintenance.thread import DetectorMaintenance
from client.service.process import DetectorProcess
from client.service.status import Status, health
from client.versions.trial_process import InlineTrial
from client.versions.version_store import VersionStore
from client.versions.warm_up import MIN_ROWS
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.protocol.alerts import Notice
from common.settings import Settings
from tests.client.sample_versions import SCHEMA, lines, rows, version

OTHER_MEAN = np.array([40.0, -900.0, 3.0], np.float32)
SETTINGS = Settings().with_values(threshold={"interval_s": 60.0})


def fleet_version(number: int = 7) -> Manifest:
    made = version(number, window=4, scaling={"by": "shared", "clip": 10.0})
    return replace(made, residuals=Residuals.of(np.ones((500, 12))), personalised=False)


def own_rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return rows(count, seed) + OTHER_MEAN


class Machine:
    """A detector and its maintenance, ticked after each event as often as the event loop has to wait."""

    def __init__(self, folder: Path, fixed: Manifest | None = None, settings: Settings = SETTINGS) -> None:
        self.detector = Detector("edge", SCHEMA, settings.data, settings.live)
        self.store = VersionStore(folder)
        self.maintenance = DetectorMaintenance(
            self.detector, settings, folder, self.store, fixed=fixed, trial=InlineTrial
        )
        self.notices: list[Notice] = []
        self.scores: list[float] = []
        self.maintenance.start()
        self.maintenance._stop.set()
        self.maintenance._wake.set()
        self.maintenance._thread.join()

    def feed(self, events: NDArray[np.float32]) -> None:
        for line in lines(events, 1e9 + 60 * len(self.scores)):
            outcome = self.detector.step([line], 0.0)
            self.notices += outcome.notices
            self.scores += [verdict.score for verdict in outcome.verdicts]
            self.maintenance.tick(save=True)

    @property
    def mean(self) -> NDArray[np.float64]:
        assert self.detector.active is not None
        return self.detector.active.manifest.moments.mean


@pytest.mark.parametrize("warm_up", [None, 50])
def test_the_fleets_version_gives_no_verdict_before_the_warm_up_and_verdicts_from_then_on(
    tmp_path: Path, warm_up: int | None
) -> None:
    machine = Machine(tmp_path, fleet_version(), SETTINGS.with_values(live={"warm_up": warm_up}))
    machine.feed(own_rows(120))
    first = warm_up or MIN_ROWS
    assert np.isnan(machine.scores[:first]).all()
    assert np.isfinite(machine.scores[first:]).all()
    assert sum(notice.kind == "incident_started" for notice in machine.notices) <= 1
    assert abs(machine.mean[0] - 40) < 1


def test_a_machine_that_is_new_to_the_fleet_has_few_alerts_and_its_faults_are_reported(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, fleet_version())
    events = own_rows(1200)
    events[1000:1010, 1] += 500
    machine.feed(events[:1000])
    quiet = len(machine.notices)
    machine.feed(events[1000:])
    assert quiet <= 2  # an incident at most, with its end
    started = [n for n in machine.notices[quiet:] if n.kind == "incident_started"]
    assert len(started) == 1
    assert started[0].alert is not None
    assert started[0].alert.causes[0].feature == "b"


def test_a_fault_within_the_warm_up_is_reported_when_it_comes_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, fleet_version())
    events = own_rows(400)
    for start in (40, 300):
        events[start : start + 8, 1] += 400
    machine.feed(events)
    received = [n.started for n in machine.notices if n.kind == "incident_started"]
    assert any(1e9 + 60 * 300 <= time < 1e9 + 60 * 308 for time in received)


def test_after_a_restart_the_rows_on_disk_warm_up_at_once(tmp_path: Path) -> None:
    first = Machine(tmp_path, fleet_version())
    first.feed(own_rows(200))
    first.maintenance.stop()
    again = Machine(tmp_path, fleet_version())
    assert again.detector.active is not None
    assert abs(again.mean[0] - 40) < 0.5
    again.feed(own_rows(20, seed=3))
    assert np.isfinite(again.scores[4:]).all()


def test_a_restart_in_the_middle_of_the_warm_up_continues_with_the_rows_on_disk(tmp_path: Path) -> None:
    settings = SETTINGS.with_values(live={"warm_up": 100, "incident_margin": 10})
    first = Machine(tmp_path, fleet_version(), settings)
    first.feed(own_rows(70))
    first.maintenance.stop()
    again = Machine(tmp_path, fleet_version(), settings)
    assert again.maintenance.warm_up.until_due == 40  # ten events were still held back
    again.feed(own_rows(41, seed=3))
    assert again.detector.active is not None


def test_a_version_of_the_fleet_in_the_store_is_adapted_until_a_personalised_one_comes(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    machine.feed(own_rows(40))
    machine.store.offer(fleet_version(3).pack())
    machine.feed(own_rows(5, seed=1))
    assert machine.detector.active is not None
    assert machine.detector.active.manifest.personalised
    assert abs(machine.mean[0] - 40) < 1
    assert machine.maintenance.warm_up.until_due is not None
    current = machine.store.current()
    assert current is not None
    assert not current.personalised
    machine.feed(own_rows(200, seed=2))
    own = machine.detector.active.manifest
    machine.store.offer(replace(own, version=4).pack())
    machine.feed(own_rows(3, seed=4))
    assert machine.detector.active.manifest.version == 4
    assert machine.maintenance.warm_up.until_due is None


def test_the_first_version_is_used_even_before_there_are_enough_events(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.store.offer(fleet_version(3).pack())
    machine.feed(own_rows(MIN_ROWS - 1))
    assert machine.maintenance.versions.refusals == 0
    assert machine.detector.active is None
    machine.feed(own_rows(2, seed=1))
    assert machine.detector.active is not None


def test_a_newer_version_of_the_fleet_is_tried_as_it_would_be_adapted(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.store.offer(fleet_version(3).pack())
    machine.feed(own_rows(400))
    machine.store.offer(fleet_version(4).pack())
    machine.feed(own_rows(3, seed=1))
    assert machine.maintenance.versions.refusals == 0
    assert machine.detector.active is not None
    assert machine.detector.active.manifest.version == 4
    assert abs(machine.mean[0] - 40) < 0.5


def test_the_threshold_begins_at_its_upper_bound_and_falls_with_it_and_with_quiet(tmp_path: Path) -> None:
    machine = Machine(tmp_path, fleet_version())
    limits = []
    for row in own_rows(500):
        machine.feed(row[None])
        if machine.detector.active is not None:
            limit = machine.detector.active.limit
            limits.append((limit.value, limit.bounds[1]))
    incidents = sum(n.kind == "incident_started" for n in machine.notices)
    quiet = np.exp(-MAX_FIRST_RISE * 500 / 1440)
    (first, bound), lowest_bound = limits[0], min(bound for _, bound in limits)
    assert first == bound > lowest_bound
    assert min(value for value, _ in limits) >= lowest_bound * quiet * 0.999
    assert limits[-1][0] < first
    assert incidents <= 1


def test_a_file_read_at_full_speed_is_warmed_up_by_its_first_events(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    events = own_rows(600)
    events[400:410, 1] += 500
    file.write_bytes(b"\n".join(lines(events)) + b"\n")
    settings = SETTINGS.with_values(
        live={"source": f"file:{file}", "sinks": (f"file:{tmp_path / 'notices'}",)}
    )
    process = DetectorProcess(settings, tmp_path / "state", "edge", fixed=fleet_version())
    process.run()
    status = process.status()
    assert status.warm_up is None
    notices = [json.loads(line) for line in (tmp_path / "notices").read_bytes().splitlines()]
    started = [n["started"] for n in notices if n["kind"] == "incident_started"]
    assert any(1e9 + 60 * 400 <= time < 1e9 + 60 * 410 for time in started)
    assert min(started) >= 1e9 + 60 * MIN_ROWS
    detector = process._parts.detector
    assert detector is not None
    assert np.isnan(detector.recent.scores[:MIN_ROWS]).all()
    assert np.isfinite(detector.recent.scores[MIN_ROWS:600]).all()


def test_health_says_how_far_the_warm_up_is_and_that_the_threshold_is_provisional(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def status_after(count: int) -> Status:
        file.write_bytes(b"\n".join(lines(own_rows(count))) + b"\n")
        settings = SETTINGS.with_values(live={"source": f"file:{file}", "sinks": ()})
        process = DetectorProcess(settings, tmp_path / f"state{count}", "edge", fixed=fleet_version())
        process.run()
        return process.status()

    body = json.loads(health(status_after(12))[1])
    assert body["warm_up"] == {"events": 12, "wanted": 25}
    assert body["version"] is None
    body = json.loads(health(status_after(60))[1])
    assert body["warm_up"] is None
    assert body["provisional"] is True
    assert body["evidence"].startswith("1 per day needs 2 days of events, has ")
