"""Every private name of Flower that flockwatch uses, in this one file.

Flower's public API has no client that outlives a message, so the resident client speaks the Fleet API
through Flower's own HTTP client. flwr is pinned to one minor version; `tests/common/test_flwr_private.py`
says which names an upgrade must still have.
"""

from __future__ import annotations

from contextlib import suppress

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
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
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

HEARTBEAT_INTERVAL_S = 10.0
"""The shortest that SuperLink allows; a node counts as gone after missing two."""

FIRST_BACKOFF_S = 0.01
"""A message can be seen before its objects have arrived; this is the first wait for them."""


class Unreachable(ConnectionError):
    """No answer from the server, or only a passing error: try again later."""


class Forgotten(ConnectionError):
    """The server does not know this node (any more): connect anew."""


class RunOver(Exception):
    """The run that a message belongs to has ended: the message is void."""


class Refused(Exception):
    """The server answered, and will not do what was asked, now or later."""


class FleetConnection:
    """One node's connection to a SuperLink's Fleet API.

    Every method may raise Unreachable, Forgotten or Refused; none retries or sleeps for long.

    Args:
        address: The SuperLink as `host:port`.
        root_certificates: Path of the PEM file to verify the server with; None for plain HTTP.
    """

    def __init__(self, address: str, root_certificates: str | None = None) -> None:
        private_key, public_key = generate_key_pairs()
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
        self._node = Node()
        self._announced: tuple[Message, ObjectTree] | None = None

    @property
    def node_id(self) -> int:
        """The id that the server gave this node; 0 before `open`."""
        return int(self._node.node_id)

    def open(self) -> None:
        """Register the node and mark it online."""
        with _translated_errors():
            self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
            activated = self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            )
        self._node = Node(node_id=activated.node_id)

    def heartbeat(self) -> None:
        """Tell the server that this node lives."""
        with _translated_errors():
            answer = self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            )
        if not answer.success:
            raise Forgotten(f"node {self.node_id} is not registered")

    def receive(self) -> Message | None:
        """The next message with its content, or None if none waits.

        The server announces a message once, so one whose content could not be fetched is tried again
        by the next call.
        """
        with _translated_errors():
            if self._announced is None:
                answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
                if not answer.messages_list:
                    return None
                self._announced = message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
            announced, tree = self._announced
            run_id = announced.metadata.run_id
            message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id),
                make_confirm_message_received_fn_protobuf(
                    self._client.ConfirmMessageReceived, self._node, run_id
                ),
                return_type=Message,
                initial_backoff=FIRST_BACKOFF_S,
            )
        self._announced = None
        # The id is not part of the serialised message, and a reply must name it.
        message.metadata.__dict__["_message_id"] = announced.metadata.message_id
        return message

    def send(self, reply: Message, runtime_s: float) -> None:
        """Deliver a reply with its content."""
        with _translated_errors(), no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            answer = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[runtime_s],
                )
            )
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(
                    self._client.PushObject, self._node, reply.metadata.run_id, answer.session_id
                ),
                object_ids_to_push=set(answer.objects_to_push),
            )

    def run(self, run_id: int) -> Run:
        """What the server says of a run: its app (`fab_id`), its series."""
        with _translated_errors():
            answer = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))
        return run_from_proto(answer.run)

    def close(self) -> None:
        """Sign off, if the server still listens, and close the sockets."""
        with suppress(httpx.HTTPError):
            if self.node_id:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
                self._client.UnregisterNode(UnregisterNodeFleetRequest(node_id=self.node_id))
        self._client.close()


def shorten_pull_backoff() -> None:
    """Let this process's Grid wait 10 ms, not 1 s, for the objects of a reply it has just seen."""
    defaults = pull_objects.__kwdefaults__
    assert defaults is not None  # noqa: S101  for mypy; the test of this file holds it
    defaults["initial_backoff"] = FIRST_BACKOFF_S


class _translated_errors:
    """Turns errors of HTTP and of Flower into the four kinds that a caller can act on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case httpx.HTTPStatusError(response=response):
                match response.status_code:
                    case 401:
                        raise Forgotten("the server does not know this node") from error
                    case 403:
                        raise RunOver from error
                    case 429 | 500 | 502 | 503 | 504:
                        raise Unreachable(f"the server answered {response.status_code}") from error
                    case _:
                        raise Refused(f"{response.status_code}: {response.text[:200]}") from error
            case httpx.TransportError():
                raise Unreachable(str(error) or kind.__name__ if kind else "") from error
            case ObjectPullError() | ObjectPushError():
                raise Unreachable(str(error)) from error
