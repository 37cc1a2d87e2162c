"""Fixtures of the federation's tests."""

from __future__ import annotations

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.flower.stamps import TASK


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Flower create messages, which it does only in a process that works for a run."""
    for name, value in TASK.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)
