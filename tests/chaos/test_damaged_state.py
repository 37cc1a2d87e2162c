"""Server and client go on after any file of their state was damaged while they were down.

`FLOCKWATCH_CHAOS` is the number of damaged states that each of them starts from.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.federations.light_clients import LightWorker
from client.app import build
from client.service.process import DetectorProcess
from client.service.status import Status
from client.versions.version_store import VersionStore
from common.flower.stamps import TASK
from common.settings import Settings
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.monitoring.status import MetricsCollector, ServerStatus
from server.storage.history import History
from server.storage.registry import Registry
from server.versions.aggregation import make_strategy
from tests.chaos.damage import damage, files
from tests.client.sample_versions import lines, rows, version

STATES = int(os.environ.get("FLOCKWATCH_CHAOS", "5"))
FEDERATION = {
    "model": {"window": 1, "hidden": (4,)}, "compression": {"up": "none", "down": "int8"},
    "federation": {"strategy": "fedadam", "patience": 0, "min_clients": 3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def flower_creates_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)


def serve(folder: Path, rounds: int) -> int | None:
    """Run a federation in memory to a version; return the newest version on disk."""
    workers = [LightWorker(f"light-{i}", i) for i in range(4)]
    apps = {i + 1: build(lambda _, worker=worker: worker) for i, worker in enumerate(workers)}  # type: ignore[misc]
    settings = Settings().with_values(**FEDERATION).with_values(federation={"max_rounds": rounds})
    with closing(History(folder / "history.sqlite")) as history:
        history.prepare()
        registry = Registry(folder / "versions", 3)
        status = folder / "fleet.json"
        FlockStrategy(make_strategy(settings), settings, registry, history, status=status).start(
            MemoryGrid(apps)
        )
    saved = Registry(folder / "versions", 3).latest()
    return saved[0].version if saved is not None else None


def damaged(sound: Path, folder: Path, seed: int, within: str = "") -> list[str]:
    """Make a copy of a state folder, and damage one, some or all of its files; return what was done."""
    draw = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    result = files(folder / within)
    chosen = draw.sample(result, min(len(result), draw.choice((1, 1, 3, len(result)))))
    return [f"{path.relative_to(folder)}: {damage(path, draw)}" for path in chosen]


def check_server(folder: Path, seeds: Iterable[int]) -> None:
    """Start a server from damaged states, one for each seed."""
    sound, copy = folder / "sound", folder / "damaged"
    sound.mkdir()
    assert serve(sound, 4) == 4
    for seed in seeds:
        done = damaged(sound, copy, seed)
        status = ServerStatus(copy, lambda: True)
        assert status.health()[1]["status"] in ("ok", "degraded"), done
        MetricsCollector(status).text()
        assert serve(copy, 7) == 7, f"seed {seed}: {done}"


def test_a_server_goes_on_from_any_damaged_state(tmp_path: Path) -> None:
    check_server(tmp_path, range(STATES))


def detector(folder: Path, number: int) -> Status:
    """Score 300 further events, the last of which are a fault; return the status at the end."""
    events = rows(300, number)
    events[-8:, 1] += 5000
    with (folder / "events.jsonl").open("ab") as file:
        file.writelines(line + b"\n" for line in lines(events, start=1e9 + 1e6 * number))
    sinks = (f"file:{folder / 'alerts.jsonl'}", "http://127.0.0.1:9/hook")
    live = {"source": f"file:{folder / 'events.jsonl'}", "sinks": sinks, "incident_margin": 8}
    settings = Settings().with_values(live=live, threshold={"value": 50.0})
    process = DetectorProcess(settings, folder / "state", "edge")
    thread = threading.Thread(target=process.run)
    thread.start()
    thread.join(60)
    process.stop()
    thread.join(60)
    return process.status()


def check_client(folder: Path, seeds: Iterable[int]) -> None:
    """Start a client from damaged states, one for each seed."""
    sound, copy = folder / "sound", folder / "damaged"
    store = VersionStore(sound / "state")
    for number in (3, 4, 5):
        store.offer(version(number).pack())
        candidate = store.candidate()
        assert candidate is not None
        store.accept(candidate)
    store.offer(version(6).pack())
    store.roll_back(4)
    store.drifted = True
    assert detector(sound, 1).version == 4
    assert detector(sound, 2).incidents >= 1
    for seed in seeds:
        done = damaged(sound, copy, seed, "state")
        status = detector(copy, 3)
        assert status.events >= 300, f"seed {seed}: {done}: {status.problems}"


def test_a_client_goes_on_from_any_damaged_state(tmp_path: Path) -> None:
    check_client(tmp_path, range(STATES))
