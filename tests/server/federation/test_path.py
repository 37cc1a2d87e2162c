"""Number of modules that a training task and a live event visit, and that a reader has to follow."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import pytest

from client.app import build
from client.connectors.sources.file import FileSource
from client.data.partition import Partition
from client.data.streams.schema import SchemaResolver
from client.detection.detector import Detector, Outcome
from client.maintenance.checkpoint import Checkpoint
from client.service.event_loop import EventLoop
from client.service.notifier import Notifier
from client.service.stream_watch import Moment, StreamWatch
from client.training.worker import ClientWorker
from common.settings import DataSettings, LiveSettings, Settings
from server.coordination.actions import Publish
from server.federation.publisher import VersionPublisher
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry
from server.versions import aggregation
from tests.client.training.samples import ROWS, SCHEMA, version

ROOT = Path(__file__).parents[3]
PACKAGES = ("client", "common", "server")
WINDOW = version().architecture.window


class Visits:
    """The modules of the three packages in which a function is called while it is on."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def on(self) -> None:
        sys.setprofile(self._see)

    def off(self) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.files.add(frame.f_code.co_filename)

    @property
    def modules(self) -> list[str]:
        places = [Path(file) for file in self.files if file.startswith(f"{ROOT}/")]
        names = [place.relative_to(ROOT).as_posix() for place in places]
        return sorted(name for name in names if name.split("/")[0] in PACKAGES)


@contextmanager
def visits() -> Iterator[Visits]:
    seen = Visits()
    try:
        yield seen
    finally:
        seen.off()


@pytest.mark.parametrize(("family", "most"), [("autoencoder", 40), ("ensemble", 46)])
def test_a_training_task_visits_few_modules_there_and_back(
    family: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the task of version 1 to the publication of version 2: two clients, asynchronous, in memory.

    With an ensemble the clients also send the sums over their rows, and versions hold those of the fleet.
    """
    settings = Settings().with_values(
        detector={"family": family},
        model={"window": 2, "hidden": (4,)},
        federation={"mode": "asynchronous", "max_rounds": 3, "buffer": 2, "patience": 0},
    )
    workers = [ClientWorker(Partition(name, SCHEMA, ROWS, ROWS[:0], None), name) for name in ("a", "b")]
    apps = {i: build(lambda _, worker=worker: worker) for i, worker in enumerate(workers, 1)}
    publish, published = VersionPublisher.publish, list[int]()

    with visits() as seen:

        def watched(self: VersionPublisher, action: Publish) -> None:
            publish(self, action)
            published.append(action.version)
            if action.version == 1:
                seen.on()
            elif action.version == 2:
                seen.off()

        monkeypatch.setattr(VersionPublisher, "publish", watched)
        inner = aggregation.make_strategy(settings)
        history, registry = History(tmp_path / "history.sqlite"), Registry(tmp_path / "versions", 10)
        strategy = FlockStrategy(inner, settings, registry, history, clock=lambda: 0.0)
        strategy.start(MemoryGrid(apps))
    assert published == [1, 2, 3]
    assert {"client/training/trainer.py", "server/federation/publisher.py"} <= set(seen.modules)
    assert len(seen.modules) <= most, "\n".join(seen.modules)


def test_a_live_event_visits_few_modules_from_source_to_verdict(tmp_path: Path) -> None:
    """From the source to the verdict on one event, with a model version and without an incident."""
    path, stop, outcomes = tmp_path / "events.jsonl", Event(), list[Outcome]()
    events = [b'{"ts": %d.5, "a": 0.5, "b": 7}\n' % second for second in range(WINDOW)]
    path.write_bytes(b"".join(events[:-1]))

    class WatchedSource(FileSource):
        def read(self, timeout_s: float) -> list[bytes]:
            seen.files.clear()
            seen.on()
            return super().read(timeout_s)

    class WatchedDetector(Detector):
        def step(self, lines: Any, now: float) -> Outcome:
            outcome = super().step(lines, now)
            seen.off()
            outcomes.append(outcome)
            count = sum(len(done.verdicts) for done in outcomes)
            if count == WINDOW - 1:
                with path.open("ab") as file:
                    file.write(events[-1])
            elif count == WINDOW:
                stop.set()
            return outcome

    detector = WatchedDetector("edge", SCHEMA, DataSettings(), LiveSettings())
    detector.activate(version(), threshold=1e9)
    source = WatchedSource(path, follow=True)
    loop = EventLoop(source, Notifier((), tmp_path), Checkpoint(tmp_path, "file:", ()), stop)
    watch = StreamWatch("edge", SCHEMA.features, LiveSettings(), Moment(0.0, 0.0))
    with visits() as seen:
        loop.run(detector, watch, SchemaResolver(DataSettings(), SCHEMA, lambda: None, lambda: None), [])
    source.close()
    (verdict,) = outcomes[-1].verdicts
    assert math.isfinite(verdict.score)
    assert {"client/detection/scorer.py", "client/connectors/sources/file.py"} <= set(seen.modules)
    assert len(seen.modules) <= 7, "\n".join(seen.modules)
