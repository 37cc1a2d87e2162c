from __future__ import annotations

import pytest
from flwr.app import Message
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.superlink.grid.http_grid import HttpGrid

from client.transport.errors import RequestRefusedError, UnknownNodeError, UnreachableError
from client.transport.fleet_connection import FleetConnection
from client.transport.sockets import Meter
from common.security.keys import new_private_key, public_key_pem
from server.flower.grid import push_inline
from tests.flower_private.fake_superlink import NODE_ID, RUN_ID, FakeSuperLink, content, question, received


def test_a_node_registers_sends_heartbeats_and_unregisters(superlink: FakeSuperLink) -> None:
    connection = FleetConnection(superlink.address)
    assert connection.node_id == 0
    connection.open()
    assert connection.node_id == NODE_ID
    connection.heartbeat()
    assert connection.receive() is None
    connection.close()
    assert superlink.paths() == [
        "register-node", "activate-node", "send-node-heartbeat", "pull-messages", "deactivate-node",
        "unregister-node",
    ]  # fmt: skip


def test_the_overhead_of_a_reply_is_small(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    """With Flower's keys and the headers of httpx it would be 1,160 bytes."""
    meter = Meter()
    connection = FleetConnection(superlink.address, meter=meter)
    connection.open()
    push_inline(grid, [question()])
    asked, inline = received(connection)
    before = meter.traffic.replies_bytes
    connection.send(Message(content(bytes(2000)), reply_to=asked), inline, 0.5)
    assert meter.traffic.replies_bytes - before < 2000 + 1070
    connection.close()


def test_two_connections_are_two_nodes(superlink: FakeSuperLink) -> None:
    for _ in range(2):
        connection = FleetConnection(superlink.address)
        connection.open()
        connection.close()
    keys = [body for path, body in superlink.requests if path.endswith("/register-node")]
    assert len(set(keys)) == 2


def test_a_node_with_a_key_of_its_own_is_registered_by_others_and_stays_so(superlink: FakeSuperLink) -> None:
    key = new_private_key()
    for _ in range(2):
        connection = FleetConnection(superlink.address, key=key)
        connection.open()
        connection.close()
    assert superlink.paths() == ["activate-node", "deactivate-node"] * 2
    activated = ActivateNodeRequest.FromString(superlink.requests[0][1])
    assert activated.public_key == public_key_pem(key.public_key())


def test_a_key_that_is_in_use_is_tried_again_later(superlink: FakeSuperLink) -> None:
    superlink.answers["/v1/fleet/activate-node"] = (412, b"{}")
    known, new = FleetConnection(superlink.address, key=new_private_key()), FleetConnection(superlink.address)
    with pytest.raises(UnreachableError, match=r"previous connection has not expired, which takes 20 s"):
        known.open()
    with pytest.raises(RequestRefusedError, match="412"):
        new.open()
    known.close()
    new.close()


def test_a_run_names_its_app(connection: FleetConnection) -> None:
    run = connection.run(RUN_ID)
    assert (run.run_id, run.fab_id, run.series_id) == (RUN_ID, "flockwatch/flockwatch", 5)


def test_closing_without_a_server_raises_nothing(superlink: FakeSuperLink) -> None:
    connection = FleetConnection(superlink.address)
    connection.open()
    superlink.answers["/v1/fleet/deactivate-node"] = (503, b"")
    connection.close()


def test_a_heartbeat_of_an_unknown_node_raises(superlink: FakeSuperLink, connection: FleetConnection) -> None:
    superlink.known = False
    with pytest.raises(UnknownNodeError, match=f"node {NODE_ID}"):
        connection.heartbeat()
