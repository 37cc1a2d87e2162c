"""Compressed updates and versions over an in-memory grid: real messages, both sides, every strategy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from msgspec.structs import replace

from benchmarks.federations.light_clients import FEATURES, LightWorker
from client.app import build
from client.transport.compression_state import CompressionState
from common.compression.choice import Block
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.weights import Weights, add, norm, scale, subtract
from common.protocol.messages import Task, Update, VersionChange, WholeVersion
from common.protocol.wire import CONTENT, RECORD, unpack
from common.settings import Settings
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry
from server.versions import aggregation

CODECS = ["int8", "topk", "ternary", "auto"]


class Recorded(LightWorker):
    """Remembers what it was given and what it meant to send."""

    def __init__(self, name: str, seed: int, compression: CompressionState | None = None) -> None:
        super().__init__(name, seed, compression)
        self.tasks: list[Task] = []
        self.true: list[Weights] = []

    def train(self, task: Task) -> Update:
        self.tasks.append(task)
        update = super().train(task)
        self.true.append(update.difference)
        return update


def settings(rounds: int = 6, **changes: Any) -> Settings:
    base: dict[str, Any] = {
        "model": {"window": 1, "hidden": (12,)},
        "federation": {"max_rounds": rounds, "min_clients": 2, "patience": 0},
        "gate": {"norm_limit": None},
    }
    for section, values in changes.items():
        base[section] = base.get(section, {}) | values
    return Settings().with_values(**base)


def run(folder: Path, chosen: Settings, edges: list[Recorded]) -> MemoryGrid:
    grid = MemoryGrid({i + 1: build(lambda _, edge=edge: edge) for i, edge in enumerate(edges)}, record=True)
    history = History(folder / "history.sqlite")
    strategy = FlockStrategy(
        aggregation.make_strategy(chosen),
        chosen,
        Registry(folder / "versions", 100),
        history,
        status=folder / "status",
    )
    strategy.start(grid)
    history.close()
    return grid


def edges(
    count: int = 3, compression: Callable[[int], CompressionState] = lambda _: CompressionState()
) -> list[Recorded]:
    return [Recorded(f"client-{i}", i, compression(i)) for i in range(count)]


def versions(folder: Path) -> list[Manifest]:
    paths = sorted((folder / "versions").glob("*.safetensors"))
    return [Manifest.unpack(path.read_bytes()) for path in paths]


def contents(messages: list[Message], kind: str) -> list[bytes]:
    result = [m.content[RECORD][CONTENT] for m in messages if m.metadata.message_type == kind]
    return [content for content in result if isinstance(content, bytes)]


def names(grid: MemoryGrid) -> list[str]:
    return [name_of(c) for c in contents(grid.sent, "train") + contents(grid.sent, "evaluate")]


def name_of(content: bytes) -> str:
    return type(unpack(content, WholeVersion, VersionChange)).__name__


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_clients_hold_exactly_the_servers_versions_under_every_codec(
    tmp_path: Path, codec: str, mode: str
) -> None:
    chosen = settings(
        compression={"up": codec, "down": codec, "up_share": 0.1}, federation={"mode": mode, "buffer": 2}
    )
    fleet = edges()
    grid = run(tmp_path, chosen, fleet)
    made = {manifest.version: manifest.hash for manifest in versions(tmp_path)}
    assert sorted(made) == list(range(7))
    for edge in fleet:
        assert edge.tasks
        assert all(task.manifest.hash == made[task.manifest.version] for task in edge.tasks)
    # After the first version only changes are sent, unless several together are longer than the whole.
    received = names(grid)
    assert received.count("WholeVersion") == len(fleet)
    assert set(received[len(fleet) + 1 :]) >= {"VersionChange"}


@pytest.mark.parametrize(
    ("codec", "scored"),
    [
        ("int8", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
        ("ternary", [0, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 13]),
    ],
)
def test_thresholds_of_a_young_fleet_come_from_young_versions(
    tmp_path: Path, codec: str, scored: list[int]
) -> None:
    class Measuring(Recorded):
        """Its scores and residuals are the number of the version that it measured."""

        def train(self, task: Task) -> Update:
            update, version = super().train(task), float(task.manifest.version)
            if not task.options.scores:
                return replace(update, scores=ScoreHistogram.empty(), residuals=Residuals())
            residuals = Residuals.of(np.full((1, FEATURES), version))
            return replace(update, scores=ScoreHistogram.of(np.array([version])), residuals=residuals)

    run(tmp_path, settings(rounds=14, compression={"up": codec}), [Measuring("a", 1), Measuring("b", 2)])
    first, *later = versions(tmp_path)
    assert not first.scores.count
    assert [[round(m.scores.quantile(rank)) for rank in (0, 1)] for m in later] == [[v, v] for v in scored]
    assert [m.residuals.squares.max() / m.residuals.count for m in later] == scored


@pytest.mark.parametrize(
    "strategy",
    ["fedavg", "fedprox", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum", "multikrum"],
)
def test_every_strategy_works_on_decoded_updates(tmp_path: Path, strategy: str) -> None:
    chosen = settings(
        rounds=4,
        federation={"strategy": strategy, "min_clients": 5},
        training={"proximal_mu": 0.1},
        aggregation={"select": 2},
        compression={"up": "int8", "down": "topk"},
    )
    fleet = edges(5)
    run(tmp_path, chosen, fleet)
    made = versions(tmp_path)
    assert [manifest.version for manifest in made] == list(range(5))
    assert norm(subtract(made[-1].weights, made[0].weights)) > 0
    assert {t.manifest.hash for edge in fleet for t in edge.tasks} <= {m.hash for m in made}


def test_nothing_is_lost_between_client_and_version(tmp_path: Path) -> None:
    """Versions together hold all true updates, but for what the clients and the server still owe."""
    chosen = settings(rounds=8, compression={"up": "topk", "down": "ternary", "up_share": 0.05})
    fleet = edges(2, lambda i: CompressionState(folder(tmp_path, i)))
    run(tmp_path, chosen, fleet)
    made = versions(tmp_path)
    moved = subtract(made[-1].weights, made[0].weights)
    owed: Weights = {}
    true: Weights = {}
    for edge in fleet:
        for difference in edge.true:
            half = scale(difference, 0.5)
            true = add(true, half) if true else half
        left = scale(edge.compression._feedback.feedback.error, 0.5)
        owed = add(owed, left) if owed else left
    memory = Registry(tmp_path / "versions", 100).memory(8)
    server = {n.removeprefix("left/"): a for n, a in memory.items()}
    rest = subtract(true, add(moved, add(owed, server)))
    assert norm(owed) > 0
    assert norm(server) > 0
    assert norm(rest) < 1e-3 * norm(true)


def folder(path: Path, i: int) -> Path:
    made = path / f"client-{i}"
    made.mkdir(exist_ok=True)
    return made


def test_a_restart_of_both_sides_continues_with_changes(tmp_path: Path) -> None:
    compression = {"up": "topk", "down": "topk"}
    run(
        tmp_path,
        settings(rounds=3, compression=compression),
        edges(2, lambda i: CompressionState(folder(tmp_path, i))),
    )
    fleet = edges(2, lambda i: CompressionState(folder(tmp_path, i)))
    assert all(edge.compression.held_hash for edge in fleet)
    assert all(edge.compression._feedback.feedback.error for edge in fleet)
    grid = run(tmp_path, settings(rounds=6, compression=compression), fleet)
    assert set(names(grid)) == {"VersionChange"}
    assert versions(tmp_path)[-1].version == 6
    # What the first run folded is not owed again, and what it left out is not forgotten.
    first = fleet[0].tasks[0]
    assert len(first.options.used) == 3
    assert len(first.options.waiting) == 0


def test_clients_that_lost_their_version_are_given_the_whole_one(tmp_path: Path) -> None:
    class Forgetful(Recorded):
        def train(self, task: Task) -> Update:
            update = super().train(task)
            if task.manifest.version == 2:
                self.compression._held = None
            return update

    fleet: list[Recorded] = [Forgetful("a", 1), Recorded("b", 2)]
    grid = run(tmp_path, settings(compression={"down": "int8"}), fleet)
    made = {manifest.version: manifest.hash for manifest in versions(tmp_path)}
    assert [t.manifest.hash for t in fleet[0].tasks] == [made[v] for v in range(6)]
    to_a = [name_of(c) for c in contents([m for m in grid.sent if m.metadata.dst_node_id == 1], "train")]
    change, whole = "VersionChange", "WholeVersion"
    assert to_a == [whole, change, change, change, whole, change, change]
    rounds = History(tmp_path / "history.sqlite").rounds()
    assert all(not r["failed"] for r in rounds)


def test_a_version_that_differs_by_one_bit_is_noticed_and_replaced(tmp_path: Path) -> None:
    class Damaged(Recorded):
        def train(self, task: Task) -> Update:
            update = super().train(task)
            held = self.compression._held
            if task.manifest.version == 2 and held is not None:
                held.weights["dense_0/bias"] = held.weights["dense_0/bias"] + np.float32(1e-6)
            return update

    fleet: list[Recorded] = [Damaged("a", 1), Recorded("b", 2)]
    run(tmp_path, settings(compression={"down": "int8"}), fleet)
    made = {manifest.version: manifest.hash for manifest in versions(tmp_path)}
    assert fleet[0].tasks[-1].manifest.hash == made[5]
    assert all(not r["failed"] for r in History(tmp_path / "history.sqlite").rounds())


def test_a_client_that_keeps_nothing_is_served_whole_versions_and_a_codec_it_has(tmp_path: Path) -> None:
    fleet = [Recorded("stock", 1, CompressionState(keeps=False)), Recorded("b", 2)]
    grid = run(tmp_path, settings(compression={"up": "topk", "down": "int8"}), fleet)
    to_stock = [name_of(c) for c in contents([m for m in grid.sent if m.metadata.dst_node_id == 1], "train")]
    assert set(to_stock) == {"WholeVersion"}
    codecs = {
        (reply["client"], reply["codec"])
        for r in History(tmp_path / "history.sqlite").rounds()
        for reply in r["replies"]
        if r["kind"] == "train"
    }
    assert codecs == {("stock", "int8+zstd"), ("b", "topk:0.08+zstd")}


def test_a_block_that_cannot_be_decoded_is_refused_and_the_others_are_used(tmp_path: Path) -> None:
    class Hostile(CompressionState):
        def encode(self, update: Update, task: Task) -> Update:
            return replace(update, block=Block("topk+zstd", b"\x28\xb5\x2f\xfd" + b"\xff" * 40))

    fleet = [Recorded("bad", 1, Hostile()), Recorded("good", 2)]
    run(tmp_path, settings(rounds=2, compression={"up": "int8"}), fleet)
    train = History(tmp_path / "history.sqlite").rounds()[0]
    assert [reply["client"] for reply in train["replies"]] == ["good"]
    assert "not admitted: it cannot be decoded" in train["failed"]["bad"]


def test_a_refused_update_gives_its_error_back(tmp_path: Path) -> None:
    class Wild(Recorded):
        """Its second update has a norm that the gate refuses."""

        def train(self, task: Task) -> Update:
            update = super().train(task)
            if task.manifest.version == 1:
                update.difference.update(scale(update.difference, 1e4))
            return update

    fleet: list[Recorded] = [Wild("a", 0), *(Recorded(f"b{i}", i + 1) for i in range(4))]
    chosen = settings(
        rounds=3, compression={"up": "topk", "up_share": 0.05},
        gate={"norm_limit": 3.0, "norm_action": "refuse"}, federation={"min_clients": 5, "quorum": 0.5},
    )  # fmt: skip
    run(tmp_path, chosen, fleet)
    assert "its norm is" in History(tmp_path / "history.sqlite").rounds()[1]["failed"]["a"]
    # The error of the wild update, thousands of times as large, is not carried into the third.
    left = fleet[0].compression._feedback.feedback.error
    assert norm(left) < 10 * norm(fleet[1].compression._feedback.feedback.error)


def test_a_server_without_its_steps_sends_whole_versions(tmp_path: Path) -> None:
    compression = {"down": "int8"}
    fleet = edges(2)
    run(tmp_path, settings(rounds=3, compression=compression), fleet)
    for path in (tmp_path / "versions").glob("*.step"):
        path.write_bytes(b"damaged")
    grid = run(tmp_path, settings(rounds=5, compression=compression), fleet)
    assert versions(tmp_path)[-1].version == 5
    assert fleet[0].tasks[-1].manifest.version == 4
    assert "VersionChange" in names(grid)


def test_another_history_of_the_same_number_is_not_mistaken(tmp_path: Path) -> None:
    """A client that holds version 3 of a run that was lost is not sent changes of another version 3."""
    compression = {"down": "int8"}
    fleet = edges(2)
    run(tmp_path, settings(rounds=3, compression=compression), fleet)
    shutil.rmtree(tmp_path / "versions")
    other = edges(2)
    run(tmp_path, settings(rounds=3, compression=compression), other)
    before = len(fleet[0].tasks)
    run(tmp_path, settings(rounds=5, compression=compression), fleet)
    made = {m.version: m.hash for m in versions(tmp_path)}
    assert all(t.manifest.hash == made[t.manifest.version] for t in fleet[0].tasks[before:])
