"""Replays of lasting changes through a detector and its maintenance, in the stream's own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.buffers.regime import Regime
from client.buffers.training_buffer import read_buffer
from client.detection.detector import Detector
from client.maintenance.thread import DetectorMaintenance
from client.service.accept import AcceptError, accept
from client.service.identity import Identity
from client.versions.trial_process import InlineTrial
from client.versions.version_store import VersionStore
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.scoring import version_scores
from common.protocol.alerts import Notice
from common.settings import Settings
from tests.client.sample_versions import SCHEMA, lines, rows, version

STEP_S = 300.0
DAY = 288
"""Events in a day."""


def zero_version(window: int = 4) -> Manifest:
    """A version that reconstructs every row as the mean: a score is the mean square of the scaled values."""
    made = version(window=window, scale=0.0)
    made = replace(made, moments=Moments.of(rows(2000)))
    scores = version_scores(made, Scaler.of(made.moments).apply(rows(2000, seed=5)))
    return replace(made, scores=ScoreHistogram.of(scores))


class Machine:
    """A detector of a machine, fed and ticked by the test."""

    def __init__(self, folder: Path, fixed: Manifest | None = None, **live: object) -> None:
        folder.mkdir(exist_ok=True)
        live = {"incident_margin": 4, **live}
        settings = Settings().with_values(live=live, threshold={"interval_s": STEP_S})
        self.detector = Detector("edge", SCHEMA, settings.data, settings.live)
        self.store = VersionStore(folder)
        self.maintenance = DetectorMaintenance(
            self.detector, settings, folder, self.store, fixed=fixed, trial=InlineTrial
        )
        self.maintenance.start()
        self.maintenance._stop.set()
        self.maintenance._thread.join()
        self.notices: list[Notice] = []
        self.sent = 0

    def feed(self, events: NDArray[np.float32], size: int = 16) -> list[Notice]:
        """Return the notices of these events."""
        before = len(self.notices)
        for start in range(0, len(events), size):
            part = lines(events[start : start + size], 1e9 + self.sent * STEP_S, STEP_S)
            self.notices += self.detector.step(part, 0.0).notices
            self.sent += len(part)
            self.maintenance.tick(save=False)
        return self.notices[before:]

    def tick_during(self, ask: Callable[[], object]) -> None:
        """Let another thread ask something of the detector, and tick until it has its answer."""
        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            self.maintenance.tick(save=False)
            time.sleep(0.01)


def kinds(notices: Iterable[Notice]) -> list[str]:
    return [notice.kind for notice in notices]


def leading(notices: Iterable[Notice], kind: str) -> list[str]:
    return [n.alert.causes[0].feature for n in notices if n.kind == kind and n.alert is not None]


def shifted(count: int, seed: int, by: float = 80.0) -> NDArray[np.float32]:
    """Normal rows with the second feature, of mean 5 and spread 10, at another level."""
    return rows(count, seed) + np.array([0, by, 0], np.float32)


def with_fault(events: NDArray[np.float32], at: int, feature: int, value: float) -> NDArray[np.float32]:
    events[at : at + 8, feature] = value
    return events


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "state")
    made.store.offer(zero_version().pack())
    made.maintenance.tick(save=False)
    made.feed(rows(3 * DAY, seed=1))
    made.notices.clear()
    return made


def test_a_lasting_shift_is_reported_once_and_adapted_to_after_a_day(machine: Machine) -> None:
    notices = machine.feed(shifted(2 * DAY, seed=2))
    ours = [n for n in notices if n.id == notices[0].id]
    assert kinds(ours) == ["incident_started", "regime_changed", "adapted"]
    assert leading(ours, "incident_started") == ["b"]
    assert ours[2].text is not None and ours[2].text.startswith("normal from here on: b +")
    assert (ours[2].ended or 0) - ours[2].started == pytest.approx(86400, abs=20 * STEP_S)
    assert machine.detector.incidents.open == ()
    assert len(notices) - len(ours) <= 4
    assert machine.maintenance.adaptation.regime.moves["b"].offset == pytest.approx(80, abs=4)


def test_faults_are_reported_during_a_lasting_shift_and_after_it_was_adapted_to(machine: Machine) -> None:
    during = machine.feed(with_fault(shifted(DAY // 2, seed=2), at=100, feature=2, value=9.0))
    assert leading(during, "incident_started")[:2] == ["b", "c"]
    machine.feed(shifted(DAY, seed=3))
    assert machine.detector.incidents.open == ()
    later = machine.feed(with_fault(shifted(DAY // 2, seed=4), at=100, feature=0, value=30.0))
    assert "a" in leading(later, "incident_started")


@pytest.mark.parametrize("size", [5.0, 8.0])
def test_a_shift_of_two_features_is_adapted_to_in_spite_of_faults_of_the_third(
    machine: Machine, size: float
) -> None:
    events = rows(DAY + 48, seed=2) + size * np.array([1, 10, 0], np.float32)
    for at in range(60, DAY, 60):
        with_fault(events, at, feature=2, value=1e5)
    notices = machine.feed(events)
    assert "c" in leading(notices, "incident_started")
    assert kinds(notices).count("adapted") == 1
    moves = machine.maintenance.adaptation.regime.moves
    assert moves["a"].offset == pytest.approx(size, abs=1)
    assert moves["b"].offset == pytest.approx(10 * size, abs=10)


def test_learning_continues_at_the_new_level(machine: Machine, tmp_path: Path) -> None:
    before = len(machine.maintenance.learned)
    machine.feed(shifted(DAY // 2, seed=2))
    assert len(machine.maintenance.learned) == pytest.approx(before, abs=10)
    machine.feed(shifted(3 * DAY, seed=3))
    kept = read_buffer(tmp_path / "state", SCHEMA)
    assert kept is not None and len(kept.rows) > before + DAY
    assert np.median(kept.rows[:before, 1]) == pytest.approx(85, abs=4)
    assert np.median(kept.rows[before:, 1]) == pytest.approx(85, abs=4)


def test_the_threshold_stays_of_the_same_size_when_a_level_moves(machine: Machine) -> None:
    assert machine.detector.active is not None
    before = machine.detector.active.threshold
    machine.feed(shifted(2 * DAY, seed=2))
    assert machine.detector.active.threshold == pytest.approx(before, rel=0.8)


def test_normal_scores_that_grow_tenfold_permanently_become_normal(machine: Machine) -> None:
    mean = np.array([0, 5, 1], np.float32)
    wild = (rows(8 * DAY, seed=2) - mean) * np.float32(10) + mean
    machine.feed(wild[: 3 * DAY])
    assert "adapted" in kinds(machine.notices)
    later = machine.feed(wild[3 * DAY :])
    assert kinds(later).count("incident_started") + kinds(later).count("flapping") <= 10
    spans = [(n.ended or 0) - n.started for n in later if n.kind in ("incident_ended", "adapted")]
    assert sum(spans) < 0.05 * 5 * 86400


def test_normal_scores_that_grow_by_half_permanently_are_within_the_budget_again(machine: Machine) -> None:
    mean = np.array([0, 5, 1], np.float32)
    louder = (rows(20 * DAY, seed=2) - mean) * np.float32(np.sqrt(1.5)) + mean
    machine.feed(louder[: 5 * DAY])
    later = machine.feed(louder[5 * DAY :])
    assert kinds(later).count("incident_started") + kinds(later).count("flapping") <= 1.5 * 15


def test_the_trainer_and_a_restart_use_the_level_that_was_adapted_to(
    machine: Machine, tmp_path: Path
) -> None:
    machine.feed(shifted(2 * DAY, seed=2))
    moved = Regime.load(tmp_path / "state").apply(rows(500, seed=7), SCHEMA.features)
    assert np.median(moved[:, 1]) == pytest.approx(85, abs=4)
    np.testing.assert_array_equal(moved[:, [0, 2]], rows(500, seed=7)[:, [0, 2]])
    again = Machine(tmp_path / "state")
    again.sent = machine.sent
    assert kinds(again.feed(shifted(DAY, seed=8))).count("incident_started") <= 2


def test_a_detector_without_a_trainer_remembers_what_it_adapted_to(tmp_path: Path) -> None:
    fixed = zero_version()
    first = Machine(tmp_path / "state", fixed)
    first.feed(rows(2 * DAY, seed=1))
    first.feed(shifted(2 * DAY, seed=2))
    assert "adapted" in kinds(first.notices)
    again = Machine(tmp_path / "state", fixed)
    again.sent = first.sent
    assert kinds(again.feed(shifted(DAY, seed=8))).count("incident_started") <= 2
    other = Machine(tmp_path / "state", replace(fixed, version=9))
    assert other.maintenance.adaptation.regime.moves == {}


def test_an_operator_accepts_a_change_at_once(machine: Machine, tmp_path: Path) -> None:
    folder, answers = tmp_path / "state", list[str]()
    machine.feed(shifted(40, seed=2))
    assert machine.detector.incidents.open
    lock = Identity(folder, "detector")
    machine.tick_during(lambda: answers.append(accept(folder)))
    assert answers and answers[0].startswith("normal from here on: b +")
    assert kinds(machine.feed(shifted(40, seed=3)))[0] == "adapted"
    machine.tick_during(lambda: answers.append(_problem(folder)))
    lock.release()
    assert "no incident is open" in answers[1]


def _problem(folder: Path) -> str:
    with pytest.raises(AcceptError) as refused:
        accept(folder)
    return str(refused.value)


def test_nothing_can_be_accepted_where_no_client_runs(tmp_path: Path) -> None:
    assert "no such state folder" in _problem(tmp_path / "nowhere")
    assert "no client runs" in _problem(tmp_path)


def test_rows_that_are_unusual_below_the_threshold_are_not_learned(machine: Machine, tmp_path: Path) -> None:
    assert machine.detector.active is not None
    machine.detector.active.limit.fixed = True
    machine.detector.active.limit.value = 1e6
    before = len(machine.maintenance.learned)
    machine.feed(with_fault(rows(100, seed=2), at=40, feature=1, value=2000.0))
    assert machine.maintenance.learned.left_out >= 8
    kept = read_buffer(tmp_path / "state", SCHEMA)
    assert kept is not None and len(kept.rows) > before + 60
    assert kept.rows[:, 1].max() < 100


def test_faults_among_the_first_rows_are_dropped_when_a_first_version_comes(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "state")
    machine.feed(with_fault(rows(400, seed=1), at=200, feature=1, value=2000.0))
    kept = read_buffer(tmp_path / "state", SCHEMA)
    assert kept is not None and kept.rows[:, 1].max() == 2000
    machine.store.offer(zero_version().pack())
    machine.maintenance.tick(save=False)
    kept = read_buffer(tmp_path / "state", SCHEMA)
    assert kept is not None and kept.rows[:, 1].max() < 100
    assert machine.detector.active is not None and machine.detector.active.threshold < 20
