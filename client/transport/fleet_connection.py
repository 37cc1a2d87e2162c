"""A node's connection to the Fleet API, which lives longer than one message.

Flower's public API has no such client. This one uses the HTTP client of Flower's SuperNode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
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
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
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

from client.transport.errors import UnknownNodeError, UnreachableError, translated_errors
from client.transport.signing import SigningInterceptor
from client.transport.sockets import Meter, count_bytes
from common.flower import packing
from common.flower.stamps import set_message_id

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 10.0
"""The interval that a node promises: the shortest that SuperLink allows. Heartbeats may be more frequent."""

IN_USE = (
    "the server does not accept this key now: either its previous connection has not expired, which takes "
    f"{HEARTBEAT_PATIENCE * HEARTBEAT_INTERVAL_S:.0f} s from its last heartbeat, or another machine uses the "
    "same key, or SuperLink does not know it"
)

UNUSED_HEADERS = ("accept-encoding", "connection", "user-agent")
"""Headers that httpx adds to every request and SuperLink does not read."""


class FleetConnection:
    """One node's connection to a SuperLink's Fleet API.

    Every method may raise the errors of `client.transport.errors`; none of them retries.

    Args:
        address: The SuperLink as `host:port`.
        root_certificates: CA certificates in PEM to verify the server with; None for plain HTTP.
        key: The client's private key, which the operator has registered. None: a new key; the node then
            registers itself.
        meter: Counts the bytes on its sockets. None: a meter of its own.
        clock: Returns seconds since 1970 by this machine's clock, which may be wrong.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.time,
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
                SigningInterceptor(private_key, public_key, clock),
            ],
        )
        count_bytes(self._client, self._meter)
        for header in UNUSED_HEADERS:
            del self._client._client.headers[header]
        self._node = Node()
        self._announced: tuple[ProtoMessage, ObjectTree] | None = None
        self._unanswered: tuple[Message, float] | None = None
        """The message received last, and when, on the clock of `time.monotonic`."""

    @property
    def node_id(self) -> int:
        """The id that the server gave this node; 0 before `open`."""
        return int(self._node.node_id)

    def open(self) -> None:
        """Register the node if the operator has not registered its key, and mark it online."""
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
        """Report to the server that this node is alive."""
        with translated_errors():
            answer = self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            )
        if not answer.success:
            raise UnknownNodeError(f"node {self.node_id} is not registered")

    def receive(self) -> tuple[Message, bool] | None:
        """Return the next message with its content, and whether that was inside; None if no message waits.

        The server announces a message once. If fetching its content fails, the next call tries again. A
        message that cannot be read is dropped.
        """
        before, started = self._meter.own, time.monotonic()
        with translated_errors():
            if self._announced is None:
                answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
                if not answer.messages_list:
                    return None
                self._announced = (
                    answer.messages_list[0],
                    next(iter(answer.message_object_trees), ObjectTree()),
                )
            proto, tree = self._announced
            try:
                message, inline = self._fetched(proto, tree)
            except packing.READ_ERRORS as error:  # it would be the same the next time
                self._announced = None
                log.error("message dropped: it cannot be read reason=%s: %s", type(error).__name__, error)
                return None
            except (ObjectPullError, httpx.HTTPStatusError) as error:
                temporary = isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error
                if not temporary:  # the content is gone, or the run has ended
                    self._announced = None
                raise
        self._announced = None
        self._unanswered = message, time.monotonic()
        self._meter.request(before, time.monotonic() - started)
        return message, inline

    def _fetched(self, proto: ProtoMessage, tree: ObjectTree) -> tuple[Message, bool]:
        """Return an announced message with its content, and whether that was inside."""
        message = message_from_proto(proto)
        if packing.has_content(message):
            return message, True
        run_id, client = message.metadata.run_id, self._client
        pull = make_pull_object_fn_protobuf(client.PullObject, self._node, run_id)
        confirm = make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, self._node, run_id)
        return packing.fetch(proto, tree, pull, confirm), False

    def send(self, reply: Message, inline: bool, runtime_s: float) -> None:
        """Send a reply.

        Args:
            reply: The reply, with its content.
            inline: Whether to send the content inside the message, as the request was.
            runtime_s: Seconds that the app took.
        """
        before, started = self._meter.own, time.monotonic()
        self._stamp(reply)
        with translated_errors(), no_object_id_recompute():
            proto, tree = packing.inline(reply) if inline else _by_objects(reply)
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

    def _stamp(self, reply: Message) -> None:
        """Give a reply its time by the server's clock, which may differ from this machine's.

        SuperLink refuses a reply that seems to outlast its message. A reply that is sent again keeps its
        stamp, so that it is the same message.
        """
        if self._unanswered is None:
            return
        message, received_at = self._unanswered
        if reply.metadata.reply_to_message_id == message.metadata.message_id:
            self._unanswered, passed_s = None, time.monotonic() - received_at
            reply.metadata.created_at = message.metadata.created_at + passed_s
            reply.metadata.ttl = message.metadata.ttl - passed_s

    def run(self, run_id: int) -> Run:
        """Return a run's app (`fab_id`) and series."""
        with translated_errors():
            answer = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))
        return run_from_proto(answer.run)

    def close(self) -> None:
        """Sign off, if the server can be reached, and close the sockets."""
        with suppress(httpx.HTTPError):
            if self.node_id:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
            if self.node_id and self._registers_itself:
                self._client.UnregisterNode(UnregisterNodeFleetRequest(node_id=self.node_id))
        self._client.close()


def _by_objects(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    """Return a message without its content, and the tree of the objects that hold the content."""
    set_message_id(message)
    return message_to_proto(remove_content_from_message(message)), get_object_tree(message)


def _key_pair() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    """Return new keys of P-256, whose requests are 90 bytes shorter than with Flower's P-384."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    return private_key, private_key.public_key()
