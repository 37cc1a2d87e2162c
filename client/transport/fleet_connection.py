"""The client's side: one node's connection, which outlives a message.

Flower's public API has no such client, so this one speaks the Fleet API through Flower's own HTTP client.
"""

from __future__ import annotations

import time
from contextlib import suppress

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.common.serde import message_from_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.transport.errors import UnknownNodeError, UnreachableError, translated_errors
from client.transport.sockets import count
from common.flower import packing
from common.protocol.traffic import Meter

HEARTBEAT_INTERVAL_S = 10.0
"""The shortest that SuperLink allows; a node counts as gone after missing two. Beats may come more often."""

IN_USE = (
    "the server does not take this key now: it holds the key's last connection for alive, which ends "
    f"{HEARTBEAT_PATIENCE * HEARTBEAT_INTERVAL_S:.0f} s after its last heartbeat, or another machine uses "
    "the same key, or SuperLink does not know it"
)

SPARED_HEADERS = ("accept-encoding", "connection", "user-agent")
"""That httpx sends with every request, and that SuperLink does not read."""


class FleetConnection:
    """One node's connection to a SuperLink's Fleet API.

    Every method may raise Unreachable, ShutOut, Forgotten or Refused; none retries or sleeps for long.

    Args:
        address: The SuperLink as `host:port`.
        root_certificates: CA certificates in PEM to verify the server with; None for plain HTTP.
        key: The client's own, which the operator has registered. None: a new one, which registers itself.
        meter: Counts the bytes on its sockets. None: nobody asks.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Meter()
        self._registers_itself = key is None
        private_key, public_key = _key_pair() if key is None else (key, key.public_key())
        self._public_key = public_key_to_bytes(public_key)
        self._client = FleetHttpClient.from_server_address(
            address,
            root_certificates is None,
            root_certificates,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(private_key, public_key),
            ],
        )
        count(self._client, self._meter)
        for header in SPARED_HEADERS:
            del self._client._client.headers[header]
        self._node = Node()
        self._announced: tuple[ProtoMessage, ObjectTree] | None = None

    @property
    def node_id(self) -> int:
        """The id that the server gave this node; 0 before `open`."""
        return int(self._node.node_id)

    def open(self) -> None:
        """Register the node, if it has no key of its own, and mark it online."""
        with translated_errors():
            if self._registers_itself:
                self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
            try:
                activated = self._client.ActivateNode(
                    ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
                )
            except httpx.HTTPStatusError as error:
                if self._registers_itself or error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                    raise
                raise UnreachableError(IN_USE) from error
        self._node = Node(node_id=activated.node_id)

    def heartbeat(self) -> None:
        """Tell the server that this node lives."""
        with translated_errors():
            answer = self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            )
        if not answer.success:
            raise UnknownNodeError(f"node {self.node_id} is not registered")

    def receive(self) -> tuple[Message, bool] | None:
        """The next message with its content, and whether it came inline; None if none waits.

        The server announces a message once, so one whose content could not be fetched is tried again
        by the next call.
        """
        before, started = self._meter.own, time.monotonic()
        with translated_errors():
            if self._announced is None:
                answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
                if not answer.messages_list:
                    return None
                self._announced = answer.messages_list[0], answer.message_object_trees[0]
            proto, tree = self._announced
            message = message_from_proto(proto)
            inline = packing.is_whole(message)
            if not inline:
                run_id = message.metadata.run_id
                try:
                    message = packing.fetched(
                        proto,
                        tree,
                        make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id),
                        make_confirm_message_received_fn_protobuf(
                            self._client.ConfirmMessageReceived, self._node, run_id
                        ),
                    )
                except (ObjectPullError, httpx.HTTPStatusError) as error:
                    passing = isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error
                    if not passing:  # the content is gone, or the run is over: another try is of no use
                        self._announced = None
                    raise
        self._announced = None
        self._meter.request(before, time.monotonic() - started)
        return message, inline

    def send(self, reply: Message, inline: bool, runtime_s: float) -> None:
        """Deliver a reply with its content, inline if that is how it was asked."""
        before, started = self._meter.own, time.monotonic()
        with translated_errors(), no_object_id_recompute():
            proto, tree = packing.inline(reply) if inline else packing.by_objects(reply)
            answer = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[proto],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[runtime_s],
                )
            )
            if not inline:
                push_objects(
                    get_all_nested_objects(reply),
                    make_push_object_fn_protobuf(
                        self._client.PushObject, self._node, reply.metadata.run_id, answer.session_id
                    ),
                    object_ids_to_push=set(answer.objects_to_push),
                )
        self._meter.request(before, time.monotonic() - started, reply=True)

    def run(self, run_id: int) -> Run:
        """What the server says of a run: its app (`fab_id`), its series."""
        with translated_errors():
            answer = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))
        return run_from_proto(answer.run)

    def close(self) -> None:
        """Sign off, if the server still listens, and close the sockets."""
        with suppress(httpx.HTTPError):
            if self.node_id:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
            if self.node_id and self._registers_itself:
                self._client.UnregisterNode(UnregisterNodeFleetRequest(node_id=self.node_id))
        self._client.close()


def _key_pair() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    """New keys. Flower's own are of P-384: key and signature make every request 90 bytes longer."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    return private_key, private_key.public_key()
