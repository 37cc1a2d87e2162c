from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from client.buffers.training_buffer import read_buffer
from client.detection.detector import Detector
from client.maintenance import checkpoint as checkpoint_module
from client.maintenance import learned_rows as learned_rows_module
from client.maintenance.checkpoint import Checkpoint, saved_position
from client.maintenance.thread import TICK_EVENTS, DetectorMaintenance
from client.maintenance.threshold_tuning import DEFAULT_INTERVAL_S
from client.versions.trial import TrialResult
from client.versions.trial_process import (
    InlineTrial,
    Trial,
    TrialError,
    TrialProcess,
    TrialRequest,
    run_request,
)
from client.versions.version_store import VersionStore
from common.budget import Budget
from common.model.histogram import ScoreHistogram
from common.model.schema import Schema
from common.model.threshold import starting_threshold
from common.settings import Settings
from tests.client.sample_versions import SCHEMA, lines, rows, version
from tests.waiting import eventually


class Spool:
    """Safe, or not."""

    def __init__(self, safe: bool = True) -> None:
        self.safe = safe

    def flush(self, timeout_s: float) -> bool:
        return self.safe


class Edge:
    """A detector and its maintenance, ticked by the test."""

    def __init__(
        self,
        folder: Path,
        spool: Spool | None = None,
        start: bool = True,
        trial: Callable[[TrialRequest], Trial] = InlineTrial,
        **sections: dict,
    ) -> None:
        self.settings = Settings().with_values(**{"live": {"incident_margin": 10}, **sections})
        self.detector = Detector("edge", SCHEMA, self.settings.data, self.settings.live)
        self.store = VersionStore(folder)
        self.checkpoint = Checkpoint(folder, "file:x", [spool or Spool()])
        self.maintenance = DetectorMaintenance(
            self.detector, self.settings, folder, self.store, self.checkpoint, trial=trial
        )
        self.sent = 0
        if start:
            self.maintenance.start()
            self.maintenance._stop.set()
            self.maintenance._thread.join()

    def feed(self, events: np.ndarray, step: float = 60.0, size: int = 100) -> None:
        for start in range(0, len(events), size):
            part = lines(events[start : start + size], 1e9 + self.sent * step, step)
            self.detector.step(part, 0.0)
            self.sent += len(part)
            self.maintenance.tick(save=True)


def tick(edge: Edge) -> None:
    edge.maintenance.tick(save=True)
    edge.detector.step([], 0.0)


def test_the_thread_tries_a_candidate_by_itself(tmp_path: Path) -> None:
    edge = Edge(tmp_path, start=False, trial=TrialProcess)
    edge.maintenance.start()
    edge.store.offer(version(4).pack())
    eventually(lambda: edge.detector.active is not None)
    edge.maintenance.stop()
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 4
    assert edge.maintenance.versions.swaps == 1


def test_a_recording_waits_for_a_turn_after_some_events_and_a_live_stream_does_not(tmp_path: Path) -> None:
    detector = Detector("edge", SCHEMA, Settings().data, Settings().live)
    settings, store = Settings().with_values(live={"incident_margin": 10}), VersionStore(tmp_path)
    live = DetectorMaintenance(detector, settings, tmp_path, store)
    assert live.await_allowance() is None
    recorded = DetectorMaintenance(detector, settings, tmp_path, store, recording=True)
    recorded.start()
    assert recorded.await_allowance() == TICK_EVENTS
    detector.step(lines(rows(TICK_EVENTS), 1e9, 60.0), 0.0)
    assert recorded.await_allowance() == TICK_EVENTS, "a tick came meanwhile"
    assert len(recorded.learned) == TICK_EVENTS - 10
    recorded.stop()


def test_an_error_in_a_tick_is_reported_and_the_next_one_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge(tmp_path, start=False)
    monkeypatch.setattr(edge.maintenance.tuning, "update", lambda: 1 / 0)
    edge.maintenance.start()
    eventually(lambda: "maintenance" in edge.maintenance.problems)
    edge.store.offer(version(4).pack())
    eventually(lambda: edge.maintenance.versions.swaps == 1)
    monkeypatch.undo()
    eventually(lambda: "maintenance" not in edge.maintenance.problems)
    edge.maintenance.stop()


def test_a_version_on_disk_is_in_use_from_the_start(tmp_path: Path) -> None:
    first = Edge(tmp_path)
    first.store.offer(version(4).pack())
    tick(first)
    again = Edge(tmp_path)
    again.detector.step([], 0.0)
    assert again.detector.active is not None and again.detector.active.scorer.version == 4
    assert again.maintenance.versions.swaps == 0


def test_a_damaged_version_is_skipped_and_named(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    for number in (4, 5):
        edge.store.offer(version(number).pack())
        tick(edge)
    newest = max((tmp_path / "versions").iterdir())
    newest.write_bytes(b"x")
    again = Edge(tmp_path)
    assert again.detector.active is not None and again.detector.active.scorer.version == 4
    assert newest.name in again.maintenance.problems["versions"]


def test_the_fleets_threshold_serves_before_there_is_any_evidence(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    given = version(1)
    edge.store.offer(given.pack())
    tick(edge)
    rate = Budget.parse("1 per day").rate(DEFAULT_INTERVAL_S)
    assert edge.detector.active is not None
    expected = starting_threshold(given.scores, ScoreHistogram.empty(), rate)[0]
    assert edge.detector.active.threshold == pytest.approx(expected)


def test_the_clients_own_scores_move_the_threshold_as_they_grow_in_number(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"budget": "24 per day", "interval_s": 60.0})
    given = version(1)
    edge.store.offer(given.pack())
    tick(edge)
    live = edge.detector.active
    assert live is not None
    at_first = live.threshold
    quiet = (rows(5000) - [0, 5, 1]) * 0.1 + [0, 5, 1]
    edge.feed(quiet.astype(np.float32))
    assert live.threshold < 0.2 * at_first


def test_a_fixed_threshold_stays(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"value": 3.25})
    edge.store.offer(version(1).pack())
    edge.feed(rows(500))
    assert edge.detector.active is not None and edge.detector.active.threshold == 3.25


def test_the_threshold_is_frozen_while_an_incident_is_open(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"budget": "24 per day"})
    edge.store.offer(version(1).pack())
    edge.feed(rows(1000))
    live = edge.detector.active
    assert live is not None
    wild = rows(200)
    wild[:, 1] += 1000
    edge.feed(wild, size=1)
    frozen = live.threshold
    assert edge.detector.incidents.open
    edge.feed(wild)
    assert live.threshold == frozen
    edge.feed(rows(500))
    assert not edge.detector.incidents.open
    assert live.threshold != frozen


def test_training_may_learn_from_normal_events_far_from_incidents_only(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"value": 50.0})
    edge.store.offer(version(1).pack())
    tick(edge)
    events = rows(400)
    events[:, 0] = np.arange(400) * 0.01
    events[200:205, 1] += 1000
    edge.feed(events, size=37)
    kept = read_buffer(tmp_path, SCHEMA)
    assert kept is not None
    numbers = np.rint(kept.rows[:, 0] * 100).astype(int)
    # The incident ends after 3 events below the release; 10 on both sides are not normal, and the last 10
    # are still held back.
    assert numbers.tolist() == [*range(200 - 10), *range(205 + 3 + 10, 390)]
    assert np.flatnonzero(kept.breaks).tolist() == [0, 190]
    assert len(edge.maintenance.learned) == len(numbers)


def test_events_are_kept_while_there_is_no_version_and_their_names_beside_them(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.feed(rows(300))
    kept = read_buffer(tmp_path, SCHEMA)
    assert kept is not None and len(kept.rows) == 290
    assert json.loads((tmp_path / "schema.json").read_text()) == ["a", "b", "c"]


def test_events_overwritten_while_held_back_leave_a_break(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.feed(rows(100))
    for part in range(0, 9000, 250):
        edge.detector.step(lines(rows(250, seed=part)), 0.0)
    edge.maintenance.tick(save=True)
    kept = read_buffer(tmp_path, SCHEMA)
    assert kept is not None and np.flatnonzero(kept.breaks).tolist() == [0, 90]


@pytest.mark.parametrize(("seed", "scale"), [(1, 8.0)])
def test_a_version_much_worse_than_the_one_in_use_is_refused(tmp_path: Path, seed: int, scale: float) -> None:
    edge = Edge(tmp_path)
    edge.store.offer(version(1).pack())
    tick(edge)
    edge.feed(rows(600))
    edge.store.offer(version(2, seed=seed, scale=scale).pack())
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 1
    assert edge.maintenance.versions.refusals == 1
    assert edge.maintenance.problems["version"].startswith("refused version 2: ")  # flockwatch.live reads it
    assert "times that of version 1" in edge.maintenance.problems["version"]
    edge.store.offer(version(3).pack())
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 3
    assert "version" not in edge.maintenance.problems


@pytest.mark.parametrize("content", [b"", b"garbage", version(3).pack()[:-9]])
def test_a_damaged_candidate_is_refused_and_the_one_in_use_continues(tmp_path: Path, content: bytes) -> None:
    edge = Edge(tmp_path)
    edge.store.offer(version(1).pack())
    tick(edge)
    edge.store.offer(content)
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 1
    assert edge.maintenance.versions.refusals == 1
    assert edge.maintenance.problems["version"].startswith("refused a version on trial")


def test_a_first_version_is_used_whatever_its_trial_finds_but_no_later_one(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"value": 1e-9})  # every event is an alert
    edge.feed(rows(600))
    edge.store.offer(version(1).pack())
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 1
    assert edge.maintenance.versions.refusals == 0
    assert "version" not in edge.maintenance.problems
    edge.store.offer(version(2, seed=1, scale=8.0).pack())
    tick(edge)
    assert edge.detector.active.scorer.version == 1
    assert edge.maintenance.versions.refusals == 1


def test_a_version_of_other_features_is_refused(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.store.offer(replace(version(1), schema=Schema(("a", "b", "x"))).pack())
    tick(edge)
    assert edge.detector.active is None
    assert "'x'" in edge.maintenance.problems["version"]


def test_a_version_with_its_features_in_another_order_is_the_same_function(tmp_path: Path) -> None:
    turned, straight = Edge(tmp_path / "1"), Edge(tmp_path / "2")
    given = version(1, window=2)
    turned.store.offer(given.aligned(Schema(("c", "a", "b"))).pack())
    straight.store.offer(given.pack())
    for edge in (turned, straight):
        tick(edge)
        edge.feed(rows(50))
    np.testing.assert_allclose(
        turned.detector.recent.scores[1:50], straight.detector.recent.scores[1:50], rtol=1e-3
    )


def test_rolling_back_uses_the_earlier_version_until_it_is_released(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    for number in (1, 2):
        edge.store.offer(version(number).pack())
        tick(edge)

    def live() -> int:
        return edge.detector.active.scorer.version if edge.detector.active else -1

    edge.store.roll_back()
    tick(edge)
    assert (live(), edge.maintenance.versions.pinned) == (1, True)
    edge.store.offer(version(3).pack())
    tick(edge)
    assert live() == 1
    edge.store.release()
    tick(edge)
    tick(edge)
    assert (live(), edge.maintenance.versions.pinned) == (3, False)


class Slow:
    """A trial that the test ends."""

    given: ClassVar[list[Slow]] = []

    def __init__(self, case: TrialRequest) -> None:
        self.case, self.over, self.failure, self.ended = case, False, "", False
        Slow.given.append(self)

    def result(self) -> TrialResult | None:
        if self.failure:
            raise TrialError(self.failure)
        return run_request(self.case) if self.over else None

    def close(self) -> None:
        self.ended = True


@pytest.fixture
def slow() -> Iterator[list[Slow]]:
    yield Slow.given
    Slow.given = []


def test_the_version_in_use_continues_until_a_trial_is_over(tmp_path: Path, slow: list[Slow]) -> None:
    edge = Edge(tmp_path, trial=Slow)
    edge.store.offer(version(1).pack())
    edge.feed(rows(300))
    assert edge.detector.active is None and len(edge.maintenance.learned) > 0
    edge.store.offer(version(2).pack())
    (first,) = slow
    first.over = True
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 1
    tick(edge)
    assert len(slow) == 2 and first.ended
    assert slow[1].case.current == edge.store.current_file


def test_a_trial_that_fails_refuses_its_version_and_says_why(tmp_path: Path, slow: list[Slow]) -> None:
    edge = Edge(tmp_path, trial=Slow)
    edge.store.offer(version(1).pack())
    tick(edge)
    slow[0].failure = "its trial ended with code 9"
    tick(edge)
    assert slow[0].ended
    assert edge.maintenance.versions.refusals == 1
    assert "version 1: its trial ended with code 9" in edge.maintenance.problems["version"]
    assert len(list((tmp_path / "refused").glob("*.safetensors"))) == 1


def test_rolling_back_gives_up_the_trial_that_continues(tmp_path: Path, slow: list[Slow]) -> None:
    edge = Edge(tmp_path, trial=Slow)
    for number in (1, 2, 3):
        edge.store.offer(version(number).pack())
        tick(edge)
        slow[-1].over = number < 3
        tick(edge)
    edge.store.roll_back()
    tick(edge)
    assert slow[2].ended and len(slow) == 4
    slow[3].over = True
    tick(edge)
    assert edge.detector.active is not None and edge.detector.active.scorer.version == 1
    edge.store.release()
    for _ in range(4):
        tick(edge)
        slow[-1].over = True
    assert edge.detector.active.scorer.version == 3


def test_a_running_trial_ends_with_the_process_and_is_repeated_by_the_next(
    tmp_path: Path, slow: list[Slow]
) -> None:
    edge = Edge(tmp_path, trial=Slow)
    edge.store.offer(version(1).pack())
    tick(edge)
    edge.maintenance.stop()
    assert slow[0].ended
    again = Edge(tmp_path)
    tick(again)
    assert again.detector.active is not None and again.detector.active.scorer.version == 1


def test_drift_is_recorded_until_the_next_version(tmp_path: Path) -> None:
    edge = Edge(tmp_path, threshold={"value": 1e6})
    edge.store.offer(version(1).pack())
    tick(edge)
    edge.feed(rows(2000))
    assert not edge.maintenance.tuning.drifted
    shifted = rows(2500, seed=3)
    shifted[:, 1] += 12
    edge.feed(shifted)
    assert edge.maintenance.tuning.drifted
    assert edge.store.drifted
    edge.store.offer(version(2).pack())
    tick(edge)
    assert edge.maintenance.versions.swaps == 2
    assert not edge.maintenance.tuning.drifted
    assert not edge.store.drifted


def test_a_position_is_saved_once_its_notices_are_safe(tmp_path: Path) -> None:
    spool = Spool(safe=False)
    edge = Edge(tmp_path, spool)
    edge.checkpoint.reached({"row": 5})
    tick(edge)
    assert not (tmp_path / "source.json").exists()
    spool.safe = True
    tick(edge)
    saved = json.loads((tmp_path / "source.json").read_text())
    assert saved == {"source": "file:x", "position": {"row": 5}}
    assert saved_position(tmp_path, "file:x") == {"row": 5}
    assert saved_position(tmp_path, "file:y") is None


def test_a_disk_that_cannot_be_written_is_a_problem_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    edge = Edge(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_atomic", full)
        edge.checkpoint.reached({"row": 5})
        tick(edge)
        assert "No space left" in edge.maintenance.problems["state"]
    tick(edge)
    assert edge.maintenance.problems.messages() == []
    assert (tmp_path / "source.json").exists()


def test_without_room_for_the_buffer_events_are_scored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(learned_rows_module, "TrainingBuffer", full)
        edge = Edge(tmp_path)
        edge.store.offer(version(1).pack())
        tick(edge)
        edge.feed(rows(300))
        assert "No space left" in edge.maintenance.problems["buffer"]
        assert math.isfinite(edge.detector.recent.scores[299])
    edge.feed(rows(300))
    assert edge.maintenance.problems.messages() == []
    assert len(edge.maintenance.learned) > 0


@pytest.mark.parametrize(
    ("step", "expected"), [(60.0, 60.0), (0.5, 0.5), (0.0, DEFAULT_INTERVAL_S), (-5.0, DEFAULT_INTERVAL_S)]
)
def test_the_interval_is_measured_from_the_events(tmp_path: Path, step: float, expected: float) -> None:
    edge = Edge(tmp_path)
    assert edge.maintenance.tuning.interval_s() == DEFAULT_INTERVAL_S
    edge.feed(rows(100), step=step)
    assert edge.maintenance.tuning.interval_s() == pytest.approx(expected)
