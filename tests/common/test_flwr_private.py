from __future__ import annotations

import ast
import importlib
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import HEARTBEAT_PATIENCE, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import run_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.serverapp import Grid
from flwr.supercore.constant import PULL_INITIAL_BACKOFF
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from common import flwr_private
from common.flwr_private import (
    FIRST_BACKOFF_S,
    HEARTBEAT_INTERVAL_S,
    FleetConnection,
    Forgotten,
    Refused,
    RunOver,
    Unreachable,
    beats,
    public_keys,
    pull,
    push_inline,
    registration,
)
from common.keys import new_private, pem
from common.traffic import Meter

SOURCE = Path(flwr_private.__file__)
NODE_ID, RUN_ID = 7, 11


# The names that an upgrade of Flower must still have.


def names_used() -> list[tuple[str, str]]:
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flwr"
        for alias in node.names
    ]


@pytest.mark.parametrize(("module", "name"), names_used())
def test_flower_has_the_name(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def used(name: str) -> Any:
    return getattr(flwr_private, name)


@pytest.mark.parametrize(
    ("function", "given", "named"),
    [
        ("make_message", ["metadata"], ["error"]),
        ("make_pull_object_fn_protobuf", ["pull", "node", "run_id"], []),
        ("make_push_object_fn_protobuf", ["push", "node", "run_id", "session_id"], []),
        ("make_confirm_message_received_fn_protobuf", ["confirm", "node", "run_id"], []),
        (
            "pull_and_inflate_object_from_tree",
            ["tree", "pull", "confirm"],
            ["return_type", "initial_backoff", "max_time"],
        ),
        ("push_objects", ["objects", "push"], ["object_ids_to_push"]),
        ("get_all_nested_objects", ["message"], []),
        ("get_object_tree", ["message"], []),
        ("no_object_id_recompute", [], []),
        ("message_from_proto", ["proto"], []),
        ("message_to_proto", ["message"], []),
        ("remove_content_from_message", ["message"], []),
        ("run_from_proto", ["proto"], []),
        ("public_key_to_bytes", ["key"], []),
        ("RuntimeVersionHttpInterceptor", [], ["component_name"]),
        ("NodeAuthHttpInterceptor", ["private", "public"], []),
    ],
)
def test_flowers_functions_take_what_they_are_given(
    function: str, given: list[str], named: list[str]
) -> None:
    inspect.signature(used(function)).bind(*given, **dict.fromkeys(named))


def test_flowers_client_takes_what_it_is_given() -> None:
    make = inspect.signature(used("FleetHttpClient").from_server_address)
    make.bind("127.0.0.1:1", True, None, interceptors=[])
    for method in (
        "RegisterNode", "ActivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject", "GetRun",
        "ConfirmMessageReceived", "PushMessages", "PushObject", "DeactivateNode", "UnregisterNode",
    ):  # fmt: skip
        inspect.signature(getattr(used("FleetHttpClient"), method)).bind("self", "request")


def test_flowers_grid_has_the_private_parts() -> None:
    assert isinstance(HttpGrid._runtime_client, property)
    assert isinstance(HttpGrid.run, property)
    assert HttpGrid(token="t").node.node_id


def test_flowers_wait_for_an_object_can_be_shortened() -> None:
    assert FIRST_BACKOFF_S < PULL_INITIAL_BACKOFF / 10


# A SuperLink that only moves messages, over real sockets.

Answer = Callable[[bytes], "tuple[int, bytes]"]


class FakeSuperLink:
    """Holds messages and objects as SuperLink does; any path can be made to answer something else."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.to_node: list[tuple[ProtoMessage, ObjectTree]] = []
        self.to_server: list[tuple[ProtoMessage, ObjectTree]] = []
        self.objects: dict[str, bytes] = {}
        self.not_yet: dict[str, int] = {}
        """How often an object is still on its way when it is asked for."""
        self.known = True
        link = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                link.requests.append((self.path, body))
                status, content = link.answers.get(self.path) or (200, link.serve(self.path, body))
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def paths(self) -> list[str]:
        return [path.rpartition("/")[2] for path, _ in self.requests]

    def serve(self, path: str, body: bytes) -> bytes:
        side, _, name = path.removeprefix("/v1/").partition("/")
        method = getattr(self, f"{side}_{name}".replace("-", "_"), None)
        answer = method(body) if method else None
        return answer.SerializeToString() if answer is not None else b""

    def fleet_activate_node(self, body: bytes) -> Any:
        assert ActivateNodeRequest.FromString(body).heartbeat_interval == HEARTBEAT_INTERVAL_S
        return ActivateNodeResponse(node_id=NODE_ID)

    def fleet_send_node_heartbeat(self, body: bytes) -> Any:
        assert SendNodeHeartbeatRequest.FromString(body).node.node_id == NODE_ID
        return SendNodeHeartbeatResponse(success=self.known)

    def fleet_get_run(self, body: bytes) -> Any:
        run = Run.create_empty(GetRunRequest.FromString(body).run_id)
        run.fab_id, run.series_id = "flockwatch/flockwatch", 5
        return GetRunResponse(run=run_to_proto(run))

    def fleet_pull_messages(self, _: bytes) -> Any:
        if not self.to_node:
            return PullMessagesResponse()
        proto, tree = self.to_node.pop(0)
        return PullMessagesResponse(messages_list=[proto], message_object_trees=[tree])

    def fleet_push_messages(self, body: bytes) -> Any:
        request = PushMessagesRequest.FromString(body)
        self.to_server += zip(request.messages_list, request.message_object_trees, strict=True)
        missing = ids_of(request.message_object_trees)
        return PushMessagesResponse(objects_to_push=missing, session_id="s")

    def runtime_push_messages(self, body: bytes) -> Any:
        request = PushAppMessagesRequest.FromString(body)
        self.to_node += zip(request.messages_list, request.message_object_trees, strict=True)
        return PushAppMessagesResponse(
            message_ids=[m.metadata.message_id for m in request.messages_list],
            objects_to_push=ids_of(request.message_object_trees),
            session_id="s",
        )

    def runtime_pull_messages(self, body: bytes) -> Any:
        wanted = set(PullAppMessagesRequest.FromString(body).message_ids)
        found = [pair for pair in self.to_server if pair[0].metadata.reply_to_message_id in wanted]
        self.to_server = [pair for pair in self.to_server if pair not in found]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def fleet_push_object(self, body: bytes) -> Any:
        request = PushObjectRequest.FromString(body)
        self.objects[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def fleet_pull_object(self, body: bytes) -> Any:
        wanted = PullObjectRequest.FromString(body).object_id
        if self.not_yet.get(wanted, 0):
            self.not_yet[wanted] -= 1
            return PullObjectResponse(object_found=True, object_available=False)
        content = self.objects.get(wanted)
        return PullObjectResponse(
            object_found=content is not None, object_available=True, object_content=content or b""
        )

    def fleet_confirm_message_received(self, body: bytes) -> Any:
        assert ConfirmMessageReceivedRequest.FromString(body).message_object_id in self.objects

    runtime_push_object = fleet_push_object
    runtime_pull_object = fleet_pull_object


def ids_of(trees: Iterable[ObjectTree]) -> list[str]:
    return [i for tree in trees for i in [tree.object_id, *ids_of(tree.children)]]


@pytest.fixture
def superlink() -> Iterator[FakeSuperLink]:
    link = FakeSuperLink()
    thread = threading.Thread(target=link.server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    yield link
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
    """Flower makes messages only in a process that works for a run."""
    for name, value in {"_run_id": RUN_ID, "_node_id": SUPERLINK_NODE_ID, "_task_id": 3}.items():
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.fixture
def grid(superlink: FakeSuperLink) -> Iterator[HttpGrid]:
    opened = HttpGrid(superlink.address, insecure=True, token="t")
    opened.set_run(Run.create_empty(RUN_ID))
    yield opened
    opened.close()


def content(value: bytes) -> RecordDict:
    return RecordDict({"flockwatch": ConfigRecord({"content": value})})


def value_of(message: Message) -> Any:
    return message.content["flockwatch"]["content"]


def question(value: bytes = b"question", node: int = NODE_ID) -> Message:
    return Message(content(value), node, MessageType.TRAIN, ttl=60.0, group_id="1")


def received(connection: FleetConnection) -> tuple[Message, bool]:
    found = connection.receive()
    assert found is not None
    return found


# One node's connection.


def test_a_node_registers_lives_and_signs_off(superlink: FakeSuperLink) -> None:
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


def test_little_travels_around_a_reply(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    """1,160 bytes with Flower's own choice of keys and the headers that httpx adds."""
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
    key = new_private()
    for _ in range(2):
        connection = FleetConnection(superlink.address, key=key)
        connection.open()
        connection.close()
    assert superlink.paths() == ["activate-node", "deactivate-node"] * 2
    activated = ActivateNodeRequest.FromString(superlink.requests[0][1])
    assert activated.public_key == pem(key.public_key())


def test_a_key_that_is_in_use_is_tried_again_later(superlink: FakeSuperLink) -> None:
    superlink.answers["/v1/fleet/activate-node"] = (412, b"{}")
    known, new = FleetConnection(superlink.address, key=new_private()), FleetConnection(superlink.address)
    with pytest.raises(Unreachable, match=r"holds the key's last connection for alive, .* 20 s"):
        known.open()
    with pytest.raises(Refused, match="412"):
        new.open()
    known.close()
    new.close()


def test_a_registration_is_what_the_control_api_reads() -> None:
    request = RegisterNodeRequest.FromString(registration("edge-7", b"key"))
    assert (request.name, request.public_key) == ("edge-7", b"key")


def test_a_run_tells_its_app(connection: FleetConnection) -> None:
    run = connection.run(RUN_ID)
    assert (run.run_id, run.fab_id, run.series_id) == (RUN_ID, "flockwatch/flockwatch", 5)


def test_closing_without_a_server_is_quiet(superlink: FakeSuperLink) -> None:
    connection = FleetConnection(superlink.address)
    connection.open()
    superlink.answers["/v1/fleet/deactivate-node"] = (503, b"")
    connection.close()


def test_a_heartbeat_of_an_unknown_node_is_forgotten(
    superlink: FakeSuperLink, connection: FleetConnection
) -> None:
    superlink.known = False
    with pytest.raises(Forgotten, match=f"node {NODE_ID}"):
        connection.heartbeat()


# Errors.


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, Forgotten, "does not know"),
        (403, RunOver, ""),
        (400, Refused, "400: because"),
        (404, Refused, "404: because"),
        (409, Refused, "409: because"),
        (413, Refused, "413: because"),
        (429, Unreachable, "429"),
        (500, Unreachable, "500"),
        (502, Unreachable, "502"),
        (503, Unreachable, "503"),
        (504, Unreachable, "504"),
    ],
)
def test_a_status_says_what_to_do(
    superlink: FakeSuperLink, connection: FleetConnection, status: int, kind: type[Exception], said: str
) -> None:
    for name in ("pull-messages", "send-node-heartbeat", "get-run", "register-node", "push-messages"):
        superlink.answers[f"/v1/fleet/{name}"] = (status, b"because")
    reply = Message(content(b"x"), reply_to=numbered(question()))
    calls: list[Callable[[], object]] = [
        connection.receive,
        connection.heartbeat,
        connection.open,
        lambda: connection.run(RUN_ID),
        lambda: connection.send(reply, True, 0.1),
        lambda: connection.send(reply, False, 0.1),
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert said in str(caught.value)


def test_a_long_answer_is_cut_in_the_error(superlink: FakeSuperLink, connection: FleetConnection) -> None:
    superlink.answers["/v1/fleet/pull-messages"] = (404, b"x" * 10_000)
    with pytest.raises(Refused) as caught:
        connection.receive()
    assert len(str(caught.value)) < 300


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connection = FleetConnection(f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(Unreachable, match="refused"):
            connection.open()
        connection.close()


def test_a_server_that_hangs_up_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            accepted, _ = server.accept()
            accepted.recv(100)
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        connection = FleetConnection(f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(Unreachable) as caught:
            connection.open()
        assert str(caught.value)
        connection.close()
        thread.join()


def test_an_answer_that_is_not_flowers_is_an_error_of_the_connection(
    superlink: FakeSuperLink, connection: FleetConnection
) -> None:
    superlink.answers["/v1/fleet/pull-messages"] = (200, b"<html>a proxy's login page</html>")
    with pytest.raises((Unreachable, Refused)):
        connection.receive()


# Messages, from the server's grid to the node and back.


def numbered(message: Message) -> Message:
    """A message as it arrives: with its id."""
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "by objects"])
def test_a_message_and_its_reply_arrive_whole(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid, inline: bool
) -> None:
    sent = [question(b"\0" * 1000)]
    ids = push_inline(grid, sent) if inline else list(grid.push_messages(sent))
    message, came_inline = received(connection)
    assert came_inline is inline
    assert value_of(message) == b"\0" * 1000
    assert [message.metadata.message_id] == ids
    assert (message.metadata.message_type, message.metadata.group_id) == (MessageType.TRAIN, "1")
    assert connection.receive() is None

    connection.send(Message(content(b"answer"), reply_to=message), came_inline, 0.25)
    replies = pull(grid, ids)
    assert [value_of(reply) for reply in replies] == [b"answer"]
    assert replies[0].metadata.reply_to_message_id == ids[0]
    assert pull(grid, ids) == []


def test_an_inline_message_is_one_request_each_way(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    superlink.requests.clear()
    ids = push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(content(b"answer"), reply_to=message), True, 0.25)
    pull(grid, ids)
    assert superlink.paths() == ["push-messages", "pull-messages", "push-messages", "pull-messages"]
    assert superlink.objects == {}


def test_the_runtime_of_the_app_is_reported(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(content(b"answer"), reply_to=message), True, 0.25)
    (body,) = [body for path, body in superlink.requests if path == "/v1/fleet/push-messages"]
    assert list(PushMessagesRequest.FromString(body).clientapp_runtime_list) == [0.25]


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "by objects"])
def test_an_error_is_a_reply_too(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid, inline: bool
) -> None:
    ids = push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(Error(2, "no such app"), reply_to=message), inline, 0.0)
    (reply,) = pull(grid, ids)
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "no such app")


def test_messages_to_several_nodes_keep_their_order(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    ids = push_inline(grid, [question(bytes([node]), node) for node in range(1, 6)])
    assert len(set(ids)) == 5
    assert [proto.metadata.message_id for proto, _ in superlink.to_node] == ids
    assert [proto.metadata.dst_node_id for proto, _ in superlink.to_node] == [1, 2, 3, 4, 5]


def test_large_messages_are_spread_over_requests(
    superlink: FakeSuperLink, grid: HttpGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flwr_private, "LARGEST_REQUEST_BYTES", 10_000)
    sizes = [4000, 4000, 4000, 30_000, 100, 100]
    ids = push_inline(grid, [question(b"x" * size, node + 1) for node, size in enumerate(sizes)])
    assert [proto.metadata.dst_node_id for proto, _ in superlink.to_node] == [1, 2, 3, 4, 5, 6]
    assert [proto.metadata.message_id for proto, _ in superlink.to_node] == ids
    bodies = [body for path, body in superlink.requests if path == "/v1/runtime/push-messages"]
    counts = [len(PushAppMessagesRequest.FromString(body).messages_list) for body in bodies]
    assert counts == [2, 1, 1, 2]


def test_no_messages_are_no_request(superlink: FakeSuperLink, grid: HttpGrid) -> None:
    assert push_inline(grid, []) == []
    assert superlink.requests == []


def test_an_object_that_is_on_its_way_is_awaited_briefly(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question()])
    superlink.not_yet = dict.fromkeys(superlink.objects, 1)
    started = time.monotonic()
    message, inline = received(connection)
    assert time.monotonic() - started < PULL_INITIAL_BACKOFF / 2
    assert (value_of(message), inline) == (b"question", False)


def test_a_message_whose_content_did_not_come_is_tried_again(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question()])
    superlink.answers["/v1/fleet/pull-object"] = (503, b"")
    with pytest.raises(Unreachable):
        connection.receive()
    del superlink.answers["/v1/fleet/pull-object"]
    assert value_of(received(connection)[0]) == b"question"
    assert connection.receive() is None


def test_a_message_whose_run_is_over_is_dropped(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question(b"of a run that ends")])
    superlink.answers["/v1/fleet/pull-object"] = (403, b"")
    with pytest.raises(RunOver):
        connection.receive()
    push_inline(grid, [question(b"of the next run")])
    assert value_of(received(connection)[0]) == b"of the next run"


def test_a_message_whose_content_is_gone_does_not_block_the_next(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question(b"gone")])
    superlink.objects.clear()
    push_inline(grid, [question(b"next")])
    values = []
    for _ in range(5):
        try:
            found = connection.receive()
        except (Unreachable, RunOver, Refused):
            continue
        if found is not None:
            values.append(value_of(found[0]))
    assert values == [b"next"]


def test_a_reply_whose_objects_are_gone_is_an_error_and_the_others_arrive(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    ids = push_inline(grid, [question(b"a"), question(b"b")])
    for inline in (False, True):
        message, _ = received(connection)
        connection.send(Message(content(b"answer"), reply_to=message), inline, 0.0)
    superlink.objects.clear()
    lost, good = pull(grid, ids)
    assert lost.has_error()
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert lost.metadata.reply_to_message_id == ids[0]
    assert value_of(good) == b"answer"


# Other grids.


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


def test_another_grid_sends_as_it_always_does() -> None:
    grid, message = Recorder(), question()
    assert push_inline(grid, [message]) == ["id"]
    assert grid.pushed == [message]
    assert pull(grid, ["id"]) == [message]


def test_a_nodes_last_beat_is_told_from_how_long_it_counts_as_online(
    grid: HttpGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [NodeInfo(node_id=7, online_until=1000.0, heartbeat_interval=10.0)]
    monkeypatch.setattr(grid, "get_nodes", lambda: nodes)
    assert beats(grid) == {7: 1000.0 - HEARTBEAT_PATIENCE * 10.0}


def test_a_nodes_key_is_told(grid: HttpGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "get_nodes", lambda: [NodeInfo(node_id=7, public_key=b"key")])
    assert public_keys(grid) == {7: b"key"}
    assert public_keys(Recorder()) == {}


def test_another_grid_tells_no_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Recorder()
    monkeypatch.setattr(grid, "get_node_ids", lambda: [3, 4])
    assert beats(grid) == {3: None, 4: None}
