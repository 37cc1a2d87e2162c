"""The strategy over an in-memory grid: real messages and real clients, no network."""

from __future__ import annotations

import gc
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.federations.light_clients import LightWorker
from client.app import build
from client.data.partition import Partition
from client.training.trainer import Trainer
from client.training.worker import ClientWorker
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.schema import Schema
from common.model.weights import Architecture, add
from common.protocol.messages import Task
from common.settings import Settings
from server.federation import exchange, status_file
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry, SavedVersion
from server.versions import aggregation
from tests.common.federated_averaging import weighted_mean

SCHEMA = Schema(("a", "b", "c"))


def settings(**changes: Any) -> Settings:
    base = {
        "model": {"window": 2, "hidden": (4,)},
        "training": {"batch_size": 16},
        "federation": {"max_rounds": 1, "min_clients": 1, "patience": 0},
        "compression": {"up": "none"},  # so that sums are those by hand
    }
    merged = Settings().with_values(**base)
    return merged.with_values(**changes) if changes else merged


def partition(name: str, rows: int, seed: int) -> Partition:
    values = np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32) + seed
    return Partition(name, SCHEMA, values, values[:0], None)


def app_of(edge: ClientWorker) -> ClientApp:
    return build(lambda _: edge)


def run(folder: Path, chosen: Settings, *partitions: Partition) -> tuple[FlockStrategy, History]:
    apps = {i + 1: app_of(ClientWorker(p, p.name)) for i, p in enumerate(partitions)}
    history = History(folder / "history.sqlite")
    strategy = FlockStrategy(FedAvg(), chosen, Registry(folder / "versions", 100), history)
    strategy.start(MemoryGrid(apps))
    return strategy, history


def versions(folder: Path) -> list[Manifest]:
    return [
        Manifest.unpack(path.read_bytes()) for path in sorted((folder / "versions").glob("*.safetensors"))
    ]


def test_a_round_over_two_clients_is_the_mean_of_their_weights_weighted_by_rows(tmp_path: Path) -> None:
    chosen = settings(federation={"min_clients": 2}, gate={"norm_limit": None})
    parts = [partition("a", 100, 1), partition("b", 300, 2)]
    run(tmp_path, chosen, *parts)
    first, second = versions(tmp_path)

    updates = [ClientWorker(p, p.name).train(Task(first)) for p in parts]
    assert [u.rows for u in updates] == [90, 270]
    by_hand = weighted_mean([(add(first.weights, u.difference), u.rows) for u in updates])
    for name, array in second.weights.items():
        np.testing.assert_allclose(array, by_hand[name], rtol=1e-5, atol=1e-6)


def test_a_federation_of_one_is_local_training(tmp_path: Path) -> None:
    chosen = settings(federation={"max_rounds": 3})
    alone = partition("a", 200, 1)
    run(tmp_path, chosen, alone)
    first, *_, last = versions(tmp_path)

    rows = Scaler.of(Moments.of(alone.rows)).apply(alone.rows[:180])
    trainer = Trainer(Architecture(3, 2, (4,)), chosen.training)
    weights = first.weights
    for version in range(3):
        weights, _ = trainer.fit(weights, rows, 1, zlib.crc32(f"a/{version}/0".encode()))
    for name, array in last.weights.items():
        np.testing.assert_allclose(array, weights[name], rtol=1e-4, atol=1e-5)


def test_the_fleets_moments_are_those_of_all_rows_together(tmp_path: Path) -> None:
    parts = [partition("a", 100, 1), partition("b", 300, 5), partition("c", 50, 9)]
    run(tmp_path, settings(federation={"min_clients": 3}), *parts)
    whole = Moments.of(np.concatenate([p.rows for p in parts]))
    result = versions(tmp_path)[0].moments
    assert result.count == 450
    np.testing.assert_allclose(result.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(result.variance, whole.variance, rtol=1e-6)
    np.testing.assert_allclose(result.minimum, whole.minimum)
    np.testing.assert_allclose(result.maximum, whole.maximum)


def test_the_error_of_a_version_is_weighted_by_rows_and_measured_before_training(tmp_path: Path) -> None:
    parts = [partition("a", 100, 1), partition("b", 300, 2)]
    _, history = run(tmp_path, settings(federation={"min_clients": 2}), *parts)
    train, evaluate = history.rounds()
    replies = train["replies"]
    assert [reply["version"] for reply in replies] == [0, 0]
    assert [reply["version"] for reply in evaluate["replies"]] == [1, 1]
    mean = sum(r["rows"] * r["error"]["mean"] for r in replies) / sum(r["rows"] for r in replies)
    assert train["error"] == pytest.approx(mean)
    assert evaluate["error"] < train["error"]


def test_the_run_stops_when_the_error_no_longer_improves(tmp_path: Path) -> None:
    chosen = settings(
        federation={"max_rounds": 500, "patience": 3, "min_improvement": 0.2},
    )
    strategy, history = run(tmp_path, chosen, partition("a", 200, 1))
    assert strategy.reason == "converged: no improvement in 3 rounds"
    errors = [r["error"] for r in history.rounds() if r["kind"] == "train"]
    assert 4 <= len(errors) < 500
    best = min(errors[:-3])
    assert all(error > best * 0.8 for error in errors[-3:])


def test_an_update_that_is_not_finite_is_refused_and_the_others_are_used(tmp_path: Path) -> None:
    class Broken(ClientWorker):
        def train(self, task: Any) -> Any:
            update = super().train(task)
            update.difference["dense_0/bias"][0] = np.nan
            return update

    good, bad = partition("good", 100, 1), partition("bad", 100, 2)
    apps = {1: app_of(ClientWorker(good, "1")), 2: app_of(Broken(bad, "2"))}
    history = History(tmp_path / "history.sqlite")
    chosen = settings(federation={"min_clients": 2})
    strategy = FlockStrategy(FedAvg(), chosen, Registry(tmp_path / "versions", 10), history)
    strategy.start(MemoryGrid(apps))
    train = history.rounds()[0]
    assert [reply["client"] for reply in train["replies"]] == ["good"]
    assert "not admitted: its arrays hold a NaN or an infinity" in train["failed"]["bad"]


def test_a_restarted_strategy_continues_from_the_newest_version(tmp_path: Path) -> None:
    alone = partition("a", 200, 1)
    run(tmp_path, settings(federation={"max_rounds": 2}), alone)
    run(tmp_path, settings(federation={"max_rounds": 4}), alone)
    straight = tmp_path / "straight"
    straight.mkdir()
    run(straight, settings(federation={"max_rounds": 4}), alone)
    for name, array in versions(tmp_path)[-1].weights.items():
        np.testing.assert_array_equal(array, versions(straight)[-1].weights[name])


def test_a_damaged_newest_version_is_skipped(tmp_path: Path) -> None:
    alone = partition("a", 200, 1)
    run(tmp_path, settings(federation={"max_rounds": 2}), alone)
    newest = tmp_path / "versions" / "v000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    _, history = run(tmp_path, settings(federation={"max_rounds": 2}), alone)
    assert [r["version"] for r in history.rounds() if r["kind"] == "train"] == [1, 2, 2]
    assert versions(tmp_path)[-1].version == 2


def test_asynchronous_clients_learn_and_each_version_is_on_disk(tmp_path: Path) -> None:
    chosen = settings(federation={"mode": "asynchronous", "buffer": 2, "max_rounds": 12, "min_clients": 3})
    parts = [partition(name, 200, seed) for seed, name in enumerate("abc")]
    strategy, history = run(tmp_path, chosen, *parts)
    assert strategy.reason == "12 rounds done"
    assert [m.version for m in versions(tmp_path)] == list(range(13))
    rounds = history.rounds()
    assert [r["kind"] for r in rounds] == ["train"] * 12 + ["evaluate"]
    assert rounds[-1]["error"] < rounds[0]["error"]
    assert {reply["client"] for r in rounds for reply in r["replies"]} == set("abc")
    # A version carries the scores of the whole fleet, not only of the two whose updates made it.
    assert versions(tmp_path)[-1].scores.count >= 3 * 19


class Counting(Registry):
    """Counts the objects of each class of flockwatch and Flower when certain versions are written."""

    def __init__(self, folder: Path, at: tuple[int, ...]) -> None:
        super().__init__(folder, keep=2)
        self.at = at
        self.held: list[Counter[str]] = []

    def write(self, version: SavedVersion) -> Path:
        if version.manifest.version in self.at:
            gc.collect()
            names = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, gc.get_objects()))
            ours = ("common.", "flwr.", "server.")
            self.held.append(Counter({name: n for name, n in names.items() if name.startswith(ours)}))
        return super().write(version)


def test_memory_does_not_grow_with_the_number_of_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWERED", 50)
    edges = [LightWorker(f"light-{number}", number) for number in range(4)]
    apps = {i + 1: build(lambda _, edge=edge: edge) for i, edge in enumerate(edges)}  # type: ignore[misc]
    chosen = settings(federation={"mode": "asynchronous", "buffer": 4, "max_rounds": 80, "min_clients": 4})
    history, registry = History(tmp_path / "history.sqlite"), Counting(tmp_path / "versions", (20, 80))
    FlockStrategy(FedAvg(), chosen, registry, history, status=tmp_path / "fleet.json").start(MemoryGrid(apps))
    some, many = registry.held
    assert some["server.federation.replies.SentMessage"] >= 50
    more = {name: count - some[name] for name, count in many.items()}
    assert {name: n for name, n in more.items() if n > len(edges)} == {}  # besides the tasks in flight


class RepeatingGrid(MemoryGrid):
    """Delivers every reply again at the next pull."""

    def __init__(self, apps: dict[int, ClientApp]) -> None:
        super().__init__(apps)
        self._again: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        result = list(super().pull_messages(message_ids))
        again, self._again = self._again, list(result)
        return [*result, *again]


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_rejected_replies_are_counted_by_client_and_reason(tmp_path: Path, mode: str) -> None:
    class Broken(ClientWorker):
        def train(self, task: Any) -> Any:
            update = super().train(task)
            update.difference["dense_0/bias"][0] = np.nan
            return update

    names = ("a", "b", "bad")
    edges = [ClientWorker(partition("a", 100, 1), "1"), ClientWorker(partition("b", 100, 2), "2")]
    edges.append(Broken(partition("bad", 100, 3), "3"))
    grid = RepeatingGrid({i + 1: app_of(edge) for i, edge in enumerate(edges)})
    chosen = settings(federation={"mode": mode, "buffer": 1, "max_rounds": 6, "min_clients": 3})
    status, history = tmp_path / "fleet.json", History(tmp_path / "history.sqlite")
    registry = Registry(tmp_path / "versions", 100)
    FlockStrategy(FedAvg(), chosen, registry, history, status=status).start(grid)
    clients = status_file.read_client_records(status)
    assert clients.keys() == set(names)
    assert clients["bad"]["admitted"] == 0
    assert clients["bad"]["refused"]["not finite"] >= 1
    used = [reply["client"] for r in history.rounds() if r["kind"] == "train" for reply in r["replies"]]
    for name in ("a", "b"):
        assert clients[name]["refused"].get("duplicate", 0) >= 1
        assert clients[name]["admitted"] == used.count(name)
    with sqlite3.connect(tmp_path / "history.sqlite") as database:
        notes = {text for (text,) in database.execute("SELECT text FROM notes WHERE kind = 'rejected'")}
    database.close()
    assert "bad: not admitted: its arrays hold a NaN or an infinity" in notes


def test_the_moments_of_an_adaptive_strategy_survive_a_restart(tmp_path: Path) -> None:
    alone = partition("a", 200, 1)

    def go(folder: Path, rounds: int) -> None:
        folder.mkdir(exist_ok=True)
        chosen = settings(federation={"strategy": "fedadam", "max_rounds": rounds})
        history, registry = History(folder / "history.sqlite"), Registry(folder / "versions", 100)
        strategy = FlockStrategy(aggregation.make_strategy(chosen), chosen, registry, history)
        strategy.start(MemoryGrid({1: app_of(ClientWorker(alone, "a"))}))

    go(tmp_path / "twice", 2)
    go(tmp_path / "twice", 4)
    go(tmp_path / "straight", 4)
    ends = [versions(tmp_path / name)[-1] for name in ("twice", "straight")]
    for name, array in ends[0].weights.items():
        np.testing.assert_array_equal(array, ends[1].weights[name])
