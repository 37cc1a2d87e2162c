"""A SuperLink that only moves messages, over real sockets; and the messages that it moves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.common.serde import run_to_proto
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
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.run import Run

from client.transport.fleet_connection import HEARTBEAT_INTERVAL_S, FleetConnection

NODE_ID, RUN_ID = 7, 11


class FakeSuperLink:
    """Stores messages and objects as SuperLink does; each path can be set to answer something else."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.to_node: list[tuple[ProtoMessage, ObjectTree]] = []
        self.to_server: list[tuple[ProtoMessage, ObjectTree]] = []
        self.objects: dict[str, bytes] = {}
        self.not_yet: dict[str, int] = {}
        """Number of requests for an object that are answered with "not available yet"."""
        self.known = True
        link = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                link.requests.append((self.path, body))
                status, content = link.answers.get(self.path) or (
                    (200, link.serve(self.path, body)) if self.is_timely() else (401, b"")
                )
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def is_timely(self) -> bool:
                signed = self.headers.get(TIMESTAMP_HEADER)
                age = time.time() - datetime.fromisoformat(signed).timestamp() if signed else 0.0
                return -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE

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
        result = [pair for pair in self.to_server if pair[0].metadata.reply_to_message_id in wanted]
        self.to_server = [pair for pair in self.to_server if pair not in result]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in result], message_object_trees=[tree for _, tree in result]
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


def content(value: bytes) -> RecordDict:
    return RecordDict({"flockwatch": ConfigRecord({"content": value})})


def value_of(message: Message) -> Any:
    return message.content["flockwatch"]["content"]


def question(value: bytes = b"question", node: int = NODE_ID) -> Message:
    return Message(content(value), node, MessageType.TRAIN, ttl=60.0, group_id="1")


def received(connection: FleetConnection) -> tuple[Message, bool]:
    result = connection.receive()
    assert result is not None
    return result
