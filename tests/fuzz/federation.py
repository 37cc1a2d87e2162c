"""A whole federation in memory, in which some clients answer with mutated messages."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.federations.light_clients import LightWorker
from client.app import build
from common.flower.stamps import TASK
from common.model.manifest import Manifest
from common.protocol.messages import VersionMissing
from common.protocol.wire import CONTENT, RECORD, pack
from common.settings import Settings
from server.coordination import clients, coordinator
from server.federation import status_file
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry
from server.versions.aggregation import make_strategy
from server.versions.canary import read_back
from tests.fuzz.mutations import mutated

HONEST, FUZZERS = 6, 2
MAX_EARLIER = 50
PART_ROUNDS = 10
"""Versions that are made before all clients evaluate the last of them, and the server starts again."""


class FuzzedApp:
    """The app of a client that mutates most of its answers."""

    def __init__(self, worker: LightWorker, seed: int, corpus: list[bytes]) -> None:
        self._app = build(lambda _: worker)  # type: ignore[arg-type, return-value]
        self._name = worker.name
        self._draw = random.Random(seed)
        self._earlier = corpus
        self.sent: Counter[str] = Counter()
        """Mutated messages so far, by the type of the message that they answer; `missing`: see below."""

    def __call__(self, message: Message, context: Context) -> Message:
        reply, kind = self._app(message, context), message.metadata.message_type
        content = reply.content[RECORD][CONTENT]
        assert isinstance(content, bytes)
        if self._draw.random() < 0.15:  # so that its other messages are those of a client that takes part
            return reply
        if kind != MessageType.QUERY and self._draw.random() < 0.1:  # as if it held no version
            kind, content = "missing", pack(VersionMissing(self._name, "it holds none"))
        self.sent[kind] += 1
        damaged = mutated(content, self._draw, self._earlier)
        if kind == "missing" and self._draw.random() < 0.5:
            damaged = content
        self._earlier[:] = [*self._earlier[-MAX_EARLIER:], content]
        record: dict[str, Any] = {CONTENT: damaged}
        if self._draw.random() < 0.03:
            record = self._draw.choice(({}, {CONTENT: 1}, {CONTENT: "x"}, {"other": b""}, {CONTENT: [1.5]}))
        reply.content = RecordDict({RECORD: ConfigRecord(record)})
        return reply


def run(folder: Path, messages: int, seed: int, mode: str = "synchronous") -> Counter[str]:
    """Run a federation until this many messages were mutated; return how many, by kind.

    The server starts again after every `PART_ROUNDS` versions, with what it saved.

    Raises:
        AssertionError: the federation ended, an honest client was kept out, or a version cannot be used.
    """
    corpus: list[bytes] = []
    honest = [LightWorker(f"light-{i}", i) for i in range(HONEST)]
    fuzzers = [FuzzedApp(LightWorker(f"fuzz-{i}", 90 + i), seed + i, corpus) for i in range(FUZZERS)]
    apps: dict[int, Any] = {i + 1: build(lambda _, w=worker: w) for i, worker in enumerate(honest)}  # type: ignore[misc]
    apps |= {HONEST + 1 + i: fuzzer for i, fuzzer in enumerate(fuzzers)}
    sent, rounds = Counter[str](), 0
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TASK.items():
            patch.setattr(TaskIdentity, name, value, raising=False)
        # Otherwise a fuzzer would soon be left alone, as it should be, and describe itself once a minute.
        patch.setattr(clients, "QUARANTINE_S", 0.0)
        patch.setattr(clients, "RETRY_S", 0.0)
        patch.setattr(clients, "REFRESH_S", 0.0)
        patch.setattr(coordinator, "FAILURE_PAUSE_S", 0.0)
        while sent.total() < messages:
            rounds += PART_ROUNDS
            _part(folder, apps, rounds, mode)
            sent = sum((fuzzer.sent for fuzzer in fuzzers), Counter())
    records = status_file.read_client_records(folder / "fleet.json")
    admitted = {name: records[name]["admitted"] for name in (worker.name for worker in honest)}
    assert min(admitted.values()) >= 0.9 * rounds * (1 if mode == "synchronous" else 0.1), admitted
    assert not any(records[name]["refused"] for name in admitted)
    return sent


def _part(folder: Path, apps: dict[int, Any], rounds: int, mode: str) -> None:
    """Run the federation to a version, and check what it has saved."""
    settings = Settings().with_values(
        model={"window": 1, "hidden": (4,)}, compression={"up": "int8", "down": "int8"},
        federation={"max_rounds": rounds, "patience": 0, "min_clients": HONEST, "mode": mode, "quorum": 0.5},
    )  # fmt: skip
    with closing(History(folder / "history.sqlite")) as history:
        history.prepare()
        registry, status = Registry(folder / "versions", 3), folder / "fleet.json"
        strategy = FlockStrategy(make_strategy(settings), settings, registry, history, status=status)
        strategy.start(MemoryGrid(apps))
        assert not history.trouble
    assert strategy.reason == f"{rounds} rounds done", strategy.reason
    saved = registry.latest()
    assert saved is not None and not registry.damaged
    check(saved[0], rounds)


def check(version: Manifest, number: int) -> None:
    """Check that a version is the expected one, and that clients can use it."""
    assert version.version == number
    read_back(version)
