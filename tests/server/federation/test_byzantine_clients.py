"""A whole federation in memory in which one client of seven is Byzantine: the others do not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from msgspec import structs

from benchmarks.federations.light_clients import LightWorker
from client.app import build
from common.flower.stamps import TASK
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.residuals import Residuals
from common.model.threshold import tail_quantile
from common.protocol.messages import Description, Task, Update
from common.settings import Settings
from server.federation import status_file
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry

VERSIONS = 6
RATE = 1e-5


class ByzantineWorker(LightWorker):
    """Sends the answers that a test gives it."""

    def __init__(self, update: Callable[[Update], Update], moments: dict[str, Any] | None = None) -> None:
        super().__init__("byzantine", 6)
        self._update, self._wrong_moments = update, moments or {}

    def describe(self, window: int | None = None) -> Description:
        sound = super().describe(window)
        assert sound.moments is not None
        return structs.replace(sound, moments=structs.replace(sound.moments, **self._wrong_moments))

    def train(self, task: Task) -> Update:
        return self._update(super().train(task))


def with_values(**changes: Any) -> Callable[[Update], Update]:
    return lambda update: structs.replace(update, **changes)


def with_error(update: Update) -> Update:
    return structs.replace(update, error=structs.replace(update.error, mean=1e-9))


def with_weights(value: float) -> Callable[[Update], Update]:
    return lambda update: structs.replace(
        update, difference={n: np.full_like(a, value) for n, a in update.difference.items()}
    )


CORRUPTIONS: dict[str, ByzantineWorker] = {
    "10^12 rows": ByzantineWorker(with_values(rows=10**12)),
    "scores 30 times too high": ByzantineWorker(
        with_values(scores=ScoreHistogram.of(30 * np.random.default_rng(0).gamma(8, 1 / 8, 200)))
    ),
    "40 huge scores": ByzantineWorker(with_values(scores=ScoreHistogram.of(np.full(40, 1e30)))),
    "more scores than events": ByzantineWorker(with_values(scores=ScoreHistogram.of(np.full(5000, 1e-9)))),
    "huge residuals": ByzantineWorker(with_values(residuals=Residuals(200, np.full(16, 1e30)))),
    "an error near 0": ByzantineWorker(with_error),
    "weights that are NaN": ByzantineWorker(with_weights(np.nan)),
    "weights that overflow": ByzantineWorker(with_weights(1e30)),
    "huge moments": ByzantineWorker(with_values(), {"m2": np.full(16, 1e200), "maximum": np.full(16, 1e200)}),
    "huge spreads": ByzantineWorker(with_values(), {"m2": np.full(16, 1e8), "within": np.full(16, 1e8),
                                         "minimum": np.full(16, -1e6), "maximum": np.full(16, 1e6)}),
    "10^12 rows in its moments": ByzantineWorker(with_values(), {"count": 10**12, "m2": np.full(16, 1e12)}),
}  # fmt: skip


def run(folder: Path, last: LightWorker, clients: int = 7) -> tuple[Manifest, dict[str, Any], str]:
    """Return the last version, the clients' records, and why the run ended."""
    edges = [*(LightWorker(f"light-{i}", i) for i in range(clients - 1)), last]
    apps = {i + 1: build(lambda _, edge=edge: edge) for i, edge in enumerate(edges)}  # type: ignore[misc]
    chosen = Settings().with_values(
        model={"window": 1, "hidden": (4,)}, compression={"up": "none", "down": "none"},
        federation={"max_rounds": VERSIONS, "patience": 0, "min_clients": clients - 1},
    )  # fmt: skip
    history, registry = History(folder / "history.sqlite"), Registry(folder / "versions", 3)
    strategy = FlockStrategy(FedAvg(), chosen, registry, history, status=folder / "fleet.json")
    strategy.start(MemoryGrid(apps))
    saved = registry.latest()
    assert saved is not None
    return saved[0], status_file.read_client_records(folder / "fleet.json"), strategy.reason


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        return run(folder, LightWorker("light-6", 6))[0]


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Let Flower create messages, as the fixture of this folder does for one test."""
    for name, value in TASK.items():
        patch.setattr(TaskIdentity, name, value, raising=False)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_byzantine_client_in_seven_neither_ends_nor_moves_the_federation(
    tmp_path: Path, clean: Manifest, name: str
) -> None:
    last, records, reason = run(tmp_path, CORRUPTIONS[name])
    assert reason == f"{VERSIONS} rounds done"
    assert last.version == VERSIONS
    assert all(records[f"light-{i}"]["admitted"] == VERSIONS for i in range(6))
    threshold = tail_quantile(last.scores, RATE)
    assert threshold == pytest.approx(tail_quantile(clean.scores, RATE), rel=0.3)
    np.testing.assert_allclose(last.moments.std, clean.moments.std, rtol=1.5)
    changed = max(float(np.abs(last.weights[n] - a).max()) for n, a in clean.weights.items())
    assert changed < 0.1
