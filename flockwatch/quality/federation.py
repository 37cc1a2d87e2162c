"""A whole federation in one process: the product's server, strategy and edges, without the network.

Every message is packed, admitted and folded as over the wire, so the versions are those that processes would
make (`tests/scenarios/test_same_federation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp

from client.app import build
from client.training.worker import ClientWorker
from common.flower.stamps import take_task
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.settings import Settings, TrainingSettings
from server.federation import aggregation
from server.federation.strategy import FlockStrategy
from server.flower.memory_grid import MemoryGrid
from server.storage.history import History
from server.storage.registry import Registry

if TYPE_CHECKING:
    from client.training.trainer import Trainer


@cache
def _trainer(architecture: Architecture, settings: str) -> Trainer:
    from client.training.trainer import Trainer

    return Trainer(architecture, TrainingSettings.model_validate_json(settings))


def shared_trainer(architecture: Architecture, settings: TrainingSettings) -> Trainer:
    """The process's one trainer of this model; another seed is no other model."""
    return _trainer(architecture, settings.model_copy(update={"seed": 0}).model_dump_json())


def _app(edge: ClientWorker) -> ClientApp:
    return build(lambda _: edge)


class NoVersionError(RuntimeError):
    """The federation ended without a version; the message says why."""


def federate(edges: Sequence[ClientWorker], settings: Settings, folder: Path) -> Manifest:
    """Run a federation of these edges to its end.

    Args:
        edges: All clients; each answers as soon as it is asked.
        settings: As of a server; the run waits for all edges.
        folder: Gets `versions` and `history.sqlite`.

    Raises:
        NoVersion: the run ended before there was one.
    """
    take_task()
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings.with_values(federation={"min_clients": len(edges)})
    apps = {i + 1: _app(edge) for i, edge in enumerate(edges)}
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
