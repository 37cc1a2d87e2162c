"""Fixtures: a SuperLink that only moves messages, a node's connection to it, and the server's grid."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from client.transport.fleet_connection import FleetConnection
from tests.flower_private.fake_superlink import RUN_ID, FakeSuperLink


@pytest.fixture
def superlink() -> Iterator[FakeSuperLink]:
    link = FakeSuperLink()
    before = set(threading.enumerate())
    thread = threading.Thread(target=link.server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    yield link
    for other in set(threading.enumerate()) - before:
        if not other.daemon:  # Flower fetches objects in threads that would try again and again later
            other.join()
    link.server.shutdown()
    thread.join()
    link.server.server_close()


@pytest.fixture
def connection(superlink: FakeSuperLink) -> Iterator[FleetConnection]:
    opened = FleetConnection(superlink.address)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a run: Flower creates messages only in a process that works for one."""
    for name, value in {"_run_id": RUN_ID, "_node_id": SUPERLINK_NODE_ID, "_task_id": 3}.items():
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.fixture
def grid(superlink: FakeSuperLink) -> Iterator[HttpGrid]:
    opened = HttpGrid(superlink.address, insecure=True, token="t")
    opened.set_run(Run.create_empty(RUN_ID))
    yield opened
    opened.close()
