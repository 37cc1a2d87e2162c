from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import pytest
from flwr.app import Message
from flwr.superlink.grid.http_grid import HttpGrid

from client.app import app
from client.transport import resident_node
from client.transport.errors import UnknownNodeError
from client.transport.fleet_connection import FleetConnection
from client.transport.resident_node import ResidentNode
from server.flower.grid import pull_replies, push_inline
from tests.flower_private.fake_superlink import FakeSuperLink, content, question, received, value_of

DAY_S = 86400.0


@pytest.mark.parametrize("ahead_s", [6.0, 3600.0, -3600.0, 400 * DAY_S, -20_000 * DAY_S])
@pytest.mark.parametrize("inline", [True, False])
def test_a_client_whose_clock_is_wrong_takes_part(
    superlink: FakeSuperLink, grid: HttpGrid, monkeypatch: pytest.MonkeyPatch, ahead_s: float, inline: bool
) -> None:
    connection = FleetConnection(superlink.address, clock=lambda: time.time() + ahead_s)
    connection.open()
    connection.heartbeat()
    ids = push_inline(grid, [question()]) if inline else list(grid.push_messages([question()]))
    message, _ = received(connection)
    with monkeypatch.context() as patch:
        wrong = datetime.now(UTC) + timedelta(seconds=ahead_s)
        patch.setattr("flwr.app.message.message.now", lambda: wrong)
        reply = Message(content(b"answer"), reply_to=message)
    connection.send(reply, inline, 0.1)
    (sent, _), asked = superlink.to_server[-1], message.metadata
    assert abs(sent.metadata.created_at - time.time()) < 60
    assert sent.metadata.created_at + sent.metadata.ttl == pytest.approx(asked.created_at + asked.ttl)
    assert value_of(pull_replies(grid, ids)[0]) == b"answer"
    connection.close()


def test_a_clock_that_jumps_later_does_not_matter(superlink: FakeSuperLink) -> None:
    ahead_s = [0.0]
    connection = FleetConnection(superlink.address, clock=lambda: time.time() + ahead_s[0])
    connection.open()
    for ahead_s[0] in (7200.0, -7200.0, 1e9, -1e9):
        connection.heartbeat()
    refused_once = 1
    assert len(superlink.requests) == 1 + 1 + 4 + refused_once
    connection.close()


def test_a_refusal_for_another_reason_is_not_repeated(
    superlink: FakeSuperLink, connection: FleetConnection
) -> None:
    superlink.answers["/v1/fleet/send-node-heartbeat"] = (401, b"")
    before = len(superlink.requests)
    with pytest.raises(UnknownNodeError):
        connection.heartbeat()
    assert len(superlink.requests) == before + 1


def test_a_client_that_the_server_never_accepts_waits_between_attempts(
    superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    superlink.answers["/v1/fleet/activate-node"] = (401, b"")
    waits: list[int] = []
    enough = Event()

    def interval_s(failures: int) -> float:
        waits.append(failures)
        if failures == 3:
            enough.set()
        return 0.0

    monkeypatch.setattr(resident_node, "retry_interval_s", interval_s)
    node = ResidentNode(superlink.address, app)
    thread = Thread(target=node.serve, daemon=True)
    thread.start()
    assert enough.wait(30)
    node.stop()
    thread.join(30)
    assert waits[:3] == [1, 2, 3]
