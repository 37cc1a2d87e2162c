"""Versions are written with their progress, before anything refers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from common.model.histogram import HistogramError, ScoreHistogram
from common.model.scoring import ErrorSummary
from common.model.weights import Weights, add
from common.settings import FederationSettings, Settings
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish, UpdateShare
from server.coordination.events import Aggregated, AggregationFailed
from server.coordination.state import Failure
from server.federation.client_records import ClientRecords
from server.federation.journal import Journal
from server.federation.publisher import VersionPublisher
from server.federation.replies import AdmittedReplies
from server.storage.history import History
from server.storage.registry import Registry
from server.versions.aggregation import EmptyAggregationError, WeightedUpdate
from server.versions.rescaling import Rescaling
from tests.server.descriptions import description
from tests.server.replies import admitted, update

FEATURES = ("cpu", "memory")
NAMES = "abcde"


class FirstUpdate:
    """Aggregates updates to the first of them."""

    broken = False

    def aggregate(self, number: int, current: Weights, updates: Sequence[WeightedUpdate]) -> Weights:
        if self.broken:
            raise EmptyAggregationError("not finite")
        return add(current, updates[0].update.difference)

    def memory(self) -> dict[str, Any]:
        return {}

    def restore(self, memory: Any) -> None:
        pass

    def rescale(self, change: Rescaling, window: int) -> None:
        pass

    def forget(self) -> None:
        pass


class Desk:
    """A publisher after version 0, with all that it uses."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.settings = Settings().with_values(model={"window": 1, "hidden": (3,)}, **sections)
        self.history = History(folder / "history.sqlite")
        self.registry = Registry(folder / "versions", 100)
        self.replies, self.records, self.aggregator = AdmittedReplies(), ClientRecords(), FirstUpdate()
        self.publisher = self.opened()
        self.publisher.resume()
        described = [description(name, "i", FEATURES) for name in NAMES]
        self.publisher.create_first(CreateFirstVersion(0, FEATURES, (1, 2), {"best_error": None}), described)

    def opened(self) -> VersionPublisher:
        """Return a publisher that starts from what is on disk."""
        self.journal = Journal(self.history, FederationSettings(), lambda: 0.0, None)
        return VersionPublisher(
            self.aggregator, self.settings, self.registry, self.replies, self.records, self.journal,  # type: ignore[arg-type]
        )  # fmt: skip

    def update(self, client: str, number: int, size: float = 0.5, **changes: Any) -> UpdateShare:
        """Admit an update, and return its share in an aggregation."""
        manifest = self.publisher.newest
        assert manifest is not None
        difference = {n: np.full(s, size, np.float32) for n, s in manifest.architecture.shapes.items()}
        answer = update(client, **{"version": 0, "serial": number, **changes, "difference": difference})
        self.records.record_reply(answer)
        self.replies.add(admitted(answer, number=number))
        return UpdateShare(number, 1, 0, 1.0)

    def versions(self) -> list[int]:
        """Return the versions that the history has rounds of."""
        return [row["version"] for row in self.history.rounds()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    with closing(opened.history):
        yield opened


def test_a_version_is_on_disk_with_its_progress(desk: Desk) -> None:
    event = desk.publisher.aggregate(Aggregate((desk.update("a", 5),), ()), {"a"})
    assert event == Aggregated(0.5, 1)
    assert desk.publisher.newest is not None
    assert desk.publisher.newest.version == 0  # until it is published
    desk.publisher.publish(Publish(1, {"best_error": 0.5}))
    saved = desk.registry.latest()
    assert saved is not None
    manifest, progress = saved
    assert manifest.hash == desk.publisher.newest.hash
    assert (manifest.version, progress) == (1, {"best_error": 0.5, "serials": {"a": [5]}})
    assert desk.versions() == [1]


def test_a_version_that_the_disk_does_not_take_is_used_and_written_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.publisher.aggregate(Aggregate((desk.update("a", 5),), ()), {"a"})

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(desk.registry, "write", full)
        desk.publisher.publish(Publish(1, {"best_error": 0.5}))
        assert desk.publisher.newest is not None
        assert desk.publisher.newest.version == 1
        assert "version 1 is not on disk: no space" in desk.journal.troubles["versions"]
        assert desk.opened().resume() == {"best_error": None, "serials": {}}  # as after a crash
    desk.publisher.write_again()
    assert desk.journal.troubles == {}
    saved = desk.registry.latest()
    assert saved is not None
    assert saved[0].hash == desk.publisher.newest.hash
    assert [kind for kind, _ in [desk.history.last_note() or ("", "")]] == ["trouble over"]


def test_a_damaged_version_is_named_and_the_one_before_it_is_used(desk: Desk, tmp_path: Path) -> None:
    desk.publisher.aggregate(Aggregate((desk.update("a", 5),), ()), {"a"})
    desk.publisher.publish(Publish(1, {}))
    newest = tmp_path / "versions" / "v000001.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = desk.opened()
    again.resume()
    assert again.newest is not None
    assert again.newest.version == 0
    problem = desk.journal.troubles["damaged versions"]
    assert "version 0 is used; damaged: v000001.safetensors" in problem


def test_a_publisher_resumes_with_the_applied_updates(desk: Desk) -> None:
    desk.publisher.aggregate(Aggregate((desk.update("a", 5), desk.update("b", 6)), ()), set("ab"))
    desk.publisher.publish(Publish(1, {"best_error": 0.5}))
    resumed = desk.opened()
    progress = resumed.resume()
    assert progress is not None
    assert progress["best_error"] == 0.5
    assert resumed.newest is not None
    assert resumed.newest.version == 1
    assert (resumed.applied.serials("a"), resumed.applied.serials("b")) == ((5,), (6,))


def test_the_reason_of_a_failed_aggregation_is_recorded(desk: Desk) -> None:
    desk.aggregator.broken = True
    failures = (Failure("b", "disconnected"),)
    event = desk.publisher.aggregate(Aggregate((desk.update("a", 5),), failures), {"a"})
    assert event == AggregationFailed("not finite")
    (row,) = desk.history.rounds()
    assert (row["version"], row["failed"]) == (0, {"b": "disconnected"})


def test_an_update_of_unusual_norm_is_rejected_and_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, gate={"norm_action": "refuse"})
    with closing(desk.history):
        sizes = dict.fromkeys(NAMES, 0.5) | {"e": 500.0}
        shares = tuple(desk.update(name, i, sizes[name]) for i, name in enumerate(NAMES, 1))
        assert desk.publisher.aggregate(Aggregate(shares, ()), set(NAMES)) == Aggregated(0.5, 4)
        desk.publisher.publish(Publish(1, {}))
        assert dict(desk.records["e"].refused) == {"norm": 1}
        assert desk.records["a"].admitted == 1
        (row,) = desk.history.rounds()
        assert "its norm is" in row["failed"]["e"]


def test_the_error_is_of_fresh_updates_or_in_asynchronous_runs_of_all_clients(tmp_path: Path) -> None:
    for mode, error in (("synchronous", 1.0), ("asynchronous", 3.0)):
        folder = tmp_path / mode
        folder.mkdir()
        desk = Desk(folder, federation={"mode": mode})
        with closing(desk.history):
            fresh = desk.update("a", 1, error=ErrorSummary(1, 1.0, 1, 1, 1, 1))
            stale = desk.update("b", 2, error=ErrorSummary(1, 5.0, 1, 1, 1, 1))
            shares = (fresh, UpdateShare(stale.number, 1, 2, 0.5))
            event = desk.publisher.aggregate(Aggregate(shares, ()), set("ab"))
            assert event == Aggregated(error, 2)


class Unreadable(ScoreHistogram):
    """Scores that spoil each sum that it is part of, as one did that only its own reader refused."""

    def capped(self, count: float) -> ScoreHistogram:
        raise HistogramError("it counts nothing")


def test_a_version_that_cannot_be_read_back_is_made_without_the_one_at_fault(desk: Desk) -> None:
    shares = tuple(desk.update(name, i) for i, name in enumerate(NAMES, 1))
    spoilt = Unreadable.of(np.ones(5))
    desk.records.record_reply(structs.replace(update("c"), scores=spoilt))
    event = desk.publisher.aggregate(Aggregate(shares, ()), set(NAMES))
    assert event == Aggregated(0.5, 4, at_fault=("c",))
    desk.publisher.publish(Publish(1, {}))
    saved = desk.registry.latest()
    assert saved is not None
    assert saved[0].version == 1
    assert dict(desk.records["c"].refused) == {"unreadable": 1}
    (row,) = desk.history.rounds()
    assert "no version can be published: HistogramError: it counts nothing" in row["failed"]["c"]


def sighted(desk: Desk) -> None:
    """Publish version 1, with enough scores to compare it with further ones."""
    shares = tuple(desk.update(name, i, 0.01, scores=usual(i)) for i, name in enumerate(NAMES, 1))
    assert isinstance(desk.publisher.aggregate(Aggregate(shares, ()), set(NAMES)), Aggregated)
    desk.publisher.publish(Publish(1, {}))


def usual(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(8, 1 / 8, 200)


def test_a_version_that_is_blind_is_made_without_the_one_at_fault(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sighted(desk)
    # As if the bounds of influence had let them pass.
    monkeypatch.setattr(desk.records, "merged_scores", lambda clients, _: (
        ScoreHistogram.of(np.full(500, 1e6)) if "c" in clients else ScoreHistogram.of(usual(9))
    ))  # fmt: skip
    shares = tuple(desk.update(name, 10 + i, 0.01) for i, name in enumerate(NAMES))
    event = desk.publisher.aggregate(Aggregate(shares, ()), set(NAMES))
    assert event == Aggregated(0.5, 4, at_fault=("c",))
    desk.publisher.publish(Publish(2, {}))
    assert "synthetic faults that version 1 finds" in desk.history.rounds()[-1]["failed"]["c"]


def test_the_version_before_stays_if_every_further_one_is_blind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sighted(desk)
    monkeypatch.setattr(desk.records, "merged_scores", lambda *_: ScoreHistogram.of(np.full(500, 1e6)))
    shares = tuple(desk.update(name, 10 + i, 0.01) for i, name in enumerate(NAMES))
    event = desk.publisher.aggregate(Aggregate(shares, ()), set(NAMES))
    assert isinstance(event, AggregationFailed)
    assert "synthetic faults" in event.reason
    assert desk.publisher.newest is not None
    assert desk.publisher.newest.version == 1


def test_a_federation_that_begins_again_with_other_features_forgets_the_model(desk: Desk) -> None:
    sighted(desk)
    others = ("x", "y", "z")
    described = [description(name, "i", others) for name in NAMES]
    desk.publisher.create_first(CreateFirstVersion(2, others, (1, 2), {}), described)
    assert desk.history.last_note() == ("features changed", "from version 2 on: x, y, z")
    saved = desk.registry.latest()
    assert saved is not None
    assert (saved[0].version, saved[0].schema.features, saved[0].scores.count) == (2, others, 0)
    assert desk.records.norms(set(NAMES)) == [] and desk.records.scored_version("a") is None
    answer = desk.update("a", 30, 0.01, version=2, scores=usual(1))
    assert isinstance(desk.publisher.aggregate(Aggregate((answer,), ()), set(NAMES)), Aggregated)


def test_weights_without_a_finite_score_are_not_published(desk: Desk) -> None:
    """Each is finite, and so is their sum, but not what the network makes of them."""
    event = desk.publisher.aggregate(Aggregate((desk.update("a", 5, 1e30),), ()), {"a"})
    assert isinstance(event, AggregationFailed)
    assert "no finite score" in event.reason


def test_rows_of_a_liar_weigh_as_those_of_three_clients(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: dict[str, int] = {}
    aggregate = desk.aggregator.aggregate

    def watched(number: int, current: Weights, updates: Sequence[WeightedUpdate]) -> Weights:
        weights.update({u.update.client: u.rows for u in updates})
        return aggregate(number, current, updates)

    monkeypatch.setattr(desk.aggregator, "aggregate", watched)
    shares = [desk.update(name, i) for i, name in enumerate(NAMES[:4], 1)]
    shares.append(desk.update("e", 9, rows=10**12))
    desk.publisher.aggregate(Aggregate(tuple(shares), ()), set(NAMES))
    assert weights == {**dict.fromkeys("abcd", 10), "e": 30}


def test_one_liars_error_and_drift_do_not_move_the_stop_rule(desk: Desk) -> None:
    shares = [desk.update(name, i) for i, name in enumerate(NAMES[:4], 1)]
    shares.append(desk.update("e", 9, error=ErrorSummary(1, 1e-9, 1, 1, 1, 1), drifted=True))
    event = desk.publisher.aggregate(Aggregate(tuple(shares), ()), set(NAMES))
    assert event == Aggregated(0.5, 5, drifted=False)
