from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import Message
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from server.flower import grid as grids
from server.flower.grid import last_heartbeats, public_keys, pull_replies, push_inline
from tests.flower_private.fake_superlink import FakeSuperLink, question


def test_messages_to_several_nodes_keep_their_order(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    ids = push_inline(grid, [question(bytes([node]), node) for node in range(1, 6)])
    assert len(set(ids)) == 5
    assert [proto.metadata.message_id for proto, _ in superlink.to_node] == ids
    assert [proto.metadata.dst_node_id for proto, _ in superlink.to_node] == [1, 2, 3, 4, 5]


def test_large_messages_are_spread_over_requests(
    superlink: FakeSuperLink, grid: HttpGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "MAX_REQUEST_BYTES", 10_000)
    sizes = [4000, 4000, 4000, 30_000, 100, 100]
    ids = push_inline(grid, [question(b"x" * size, node + 1) for node, size in enumerate(sizes)])
    assert [proto.metadata.dst_node_id for proto, _ in superlink.to_node] == [1, 2, 3, 4, 5, 6]
    assert [proto.metadata.message_id for proto, _ in superlink.to_node] == ids
    bodies = [body for path, body in superlink.requests if path == "/v1/runtime/push-messages"]
    counts = [len(PushAppMessagesRequest.FromString(body).messages_list) for body in bodies]
    assert counts == [2, 1, 1, 2]


def test_no_request_is_sent_without_messages(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    assert push_inline(grid, []) == []
    assert superlink.requests == []


class Recorder(Grid):
    """A grid that is not Flower's HTTP grid."""

    def __init__(self) -> None:
        self.pushed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.pushed += messages
        return iter(["id"])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        assert list(message_ids) == ["id"]
        return iter(self.pushed)

    set_run = run = create_message = get_node_ids = get_nodes = send_and_receive = None  # type: ignore


def test_another_grid_uses_its_own_push_messages() -> None:
    grid, message = Recorder(), question()
    assert push_inline(grid, [message]) == ["id"]
    assert grid.pushed == [message]
    assert pull_replies(grid, ["id"]) == [message]


def test_the_last_heartbeat_follows_from_online_until(
    grid: HttpGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [NodeInfo(node_id=7, online_until=1000.0, heartbeat_interval=10.0)]
    monkeypatch.setattr(grid, "get_nodes", lambda: nodes)
    assert last_heartbeats(grid) == {7: 1000.0 - HEARTBEAT_PATIENCE * 10.0}


def test_public_keys_of_nodes(grid: HttpGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "get_nodes", lambda: [NodeInfo(node_id=7, public_key=b"key")])
    assert public_keys(grid) == {7: b"key"}
    assert public_keys(Recorder()) == {}


def test_another_grid_has_no_heartbeat_times(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Recorder()
    monkeypatch.setattr(grid, "get_node_ids", lambda: [3, 4])
    assert last_heartbeats(grid) == {3: None, 4: None}
