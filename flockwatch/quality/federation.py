"""Runs a whole federation in one process: the real server, strategy and clients, without a network.

Messages are packed, checked and aggregated as usual, so the versions are the same as those of separate
processes (`tests/scenarios/test_same_federation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp

from client.app import build
from client.training.worker import ClientWorker
from common.flower.stamps import set_task
from common.model.manifest import Manifest
from common.model.weights import Architecture
from common.settings import Settings, TrainingSettings
from flockwatch.runs import finite
from server.federation.strategy import FlockStrategy
from server.flower.grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry
from server.versions import aggregation

if TYPE_CHECKING:
    from client.training.trainer import Trainer


@cache
def _trainer(architecture: Architecture, settings: str) -> Trainer:
    from client.training.trainer import Trainer

    return Trainer(architecture, TrainingSettings.model_validate_json(settings))


def shared_trainer(architecture: Architecture, settings: TrainingSettings) -> Trainer:
    """Return the trainer of a model, one for each process; trainers with different seeds are the same."""
    return _trainer(architecture, settings.model_copy(update={"seed": 0}).model_dump_json())


def _app(client: ClientWorker) -> ClientApp:
    return build(lambda _: client)


class NoVersionError(RuntimeError):
    """The federation ended without a version; the message says why."""


def federate(clients: Sequence[ClientWorker], settings: Settings, folder: Path) -> Manifest:
    """Run a federation to its end, and return its newest version.

    Args:
        clients: All clients of the federation; training starts when all of them are known.
        settings: The settings of the server.
        folder: Where `versions` and `history.sqlite` are stored.

    Raises:
        NoVersionError: the run ended without a version.
    """
    set_task()
    folder.mkdir(parents=True, exist_ok=True)
    settings = finite(settings).with_values(federation={"min_clients": len(clients)})
    apps = {i + 1: _app(client) for i, client in enumerate(clients)}
    registry = Registry(folder / "versions", settings.server.keep_versions)
    history = History(folder / "history.sqlite")
    strategy = FlockStrategy(aggregation.make_strategy(settings), settings, registry, history)
    try:
        strategy.start(MemoryGrid(apps))
    finally:
        history.close()
    newest = registry.latest()
    if newest is None:
        raise NoVersionError(f"the federation ended without a version: {strategy.reason}")
    return newest[0]
