"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.flower.stamps import TASK
from server.storage.history import History
from tests.contracts.postgres import Postgres


@pytest.fixture(autouse=True)
def _close_histories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections that a test leaves open: sqlite3 warns of them from Python 3.13 on."""
    opened: list[History] = []
    initialise = History.__init__

    def remember(self: History, *arguments: Any, **options: Any) -> None:
        initialise(self, *arguments, **options)
        opened.append(self)

    monkeypatch.setattr(History, "__init__", remember)
    yield
    for history in opened:
        history._engine.dispose()  # `close` would try to reach a database that a test has stopped


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Flower create messages, which it does only in a process that works for a run."""
    for name, value in TASK.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for all tests of this process."""
    running = Postgres()
    yield running
    running.remove()
