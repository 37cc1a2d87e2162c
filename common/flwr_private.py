"""Every private name of Flower that flockwatch uses, in this one file.

Flower's public API has no client that outlives a message, so the resident client speaks the Fleet API
through Flower's own HTTP client. And it moves a message as at least three objects, each in a request of its
own in each direction, where SuperLink needs 10 ms for a request; Flower's protocol also has a field for the
content in the message itself, which SuperLink stores and hands on, and that is what is used here: a message
is then one request, not five (`docs/decisions/0002-inline-messages.md`).

flwr is pinned to one minor version; `tests/common/test_flwr_private.py` says which names an upgrade must
still have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpcore
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import HEARTBEAT_PATIENCE, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest
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
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import FlowerError
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
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.traffic import Meter

HEARTBEAT_INTERVAL_S = 10.0
"""The shortest that SuperLink allows; a node counts as gone after missing two. Beats may come more often."""

IN_USE = (
    "the server does not take this key now: it holds the key's last connection for alive, which ends "
    f"{HEARTBEAT_PATIENCE * HEARTBEAT_INTERVAL_S:.0f} s after its last heartbeat, or another machine uses "
    "the same key, or SuperLink does not know it"
)

FIRST_BACKOFF_S, LONGEST_FETCH_S = 0.01, 60.0
"""A message can be seen before its objects have arrived: the first wait for them, and the longest."""

LARGEST_REQUEST_BYTES = 16 * 2**20

SPARED_HEADERS = ("accept-encoding", "connection", "user-agent")
"""That httpx sends with every request, and that SuperLink does not read."""


KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.encode()
"""Names the public key that a request is signed with."""

PROTOBUF = PROTOBUF_MEDIA_TYPE.encode()
ACTIVATE = b"/v1/fleet/activate-node"
SELF_SERVICE = (b"/v1/fleet/register-node", b"/v1/fleet/unregister-node")
"""Paths by which a node registers its own key."""

CONTROL_REGISTER = b"/v1/control/register-node"

REFUSED_HEADER = b"flockwatch-refused"
"""Marks a refusal of the server's gateway, among those of SuperLink."""

TASK = {"_run_id": 1, "_node_id": 1, "_task_id": 1}
"""Flower stamps messages with the task that makes them, which it keeps in attributes of `TaskIdentity`."""


class Unreachable(ConnectionError):
    """No answer from the server, or only a passing error: try again later."""


class Forgotten(ConnectionError):
    """The server does not know this node (any more): connect anew."""


class ShutOut(Exception):
    """The server does not let this client in: its key is unknown or revoked, or it asked for too much."""


class RunOver(Exception):
    """The run that a message belongs to has ended: the message is void."""


class Refused(Exception):
    """The server answered, and will not do what was asked, now or later."""


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
        _count(self._client, self._meter)
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
        with _translated_errors():
            if self._registers_itself:
                self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
            try:
                activated = self._client.ActivateNode(
                    ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
                )
            except httpx.HTTPStatusError as error:
                if self._registers_itself or error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                    raise
                raise Unreachable(IN_USE) from error
        self._node = Node(node_id=activated.node_id)

    def heartbeat(self) -> None:
        """Tell the server that this node lives."""
        with _translated_errors():
            answer = self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            )
        if not answer.success:
            raise Forgotten(f"node {self.node_id} is not registered")

    def receive(self) -> tuple[Message, bool] | None:
        """The next message with its content, and whether it came inline; None if none waits.

        The server announces a message once, so one whose content could not be fetched is tried again
        by the next call.
        """
        before, started = self._meter.own, time.monotonic()
        with _translated_errors():
            if self._announced is None:
                answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
                if not answer.messages_list:
                    return None
                self._announced = answer.messages_list[0], answer.message_object_trees[0]
            proto, tree = self._announced
            message = message_from_proto(proto)
            inline = _is_whole(message)
            if not inline:
                run_id = message.metadata.run_id
                try:
                    message = _fetch(
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
        with _translated_errors(), no_object_id_recompute():
            proto, tree = _inline(reply) if inline else _by_objects(reply)
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
        with _translated_errors():
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


def take_task() -> None:
    """Stamp the messages of this process as those of one task, where Flower has not started it for one."""
    for name, value in TASK.items():
        setattr(TaskIdentity, name, value)


def beats(grid: Grid) -> dict[int, float | None]:
    """The connected nodes, each with the time of its last heartbeat on the server's clock, if that is known.

    SuperLink keeps until when a node counts as online: so many intervals after its last heartbeat.
    """
    if not isinstance(grid, HttpGrid):
        return dict.fromkeys(grid.get_node_ids())
    return {
        int(node.node_id): node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        for node in grid.get_nodes()
    }


def public_keys(grid: Grid) -> dict[int, bytes]:
    """The key of each connected node, in PEM."""
    return {int(n.node_id): n.public_key for n in grid.get_nodes()} if isinstance(grid, HttpGrid) else {}


def push_inline(grid: Grid, messages: list[Message]) -> list[str]:
    """As `grid.push_messages`, with the content inside the messages; returns their ids.

    For nodes with a `FleetConnection`: a stock SuperNode looks for objects. A grid that is not Flower's
    HTTP grid sends as it always does.
    """
    if not isinstance(grid, HttpGrid):
        return list(grid.push_messages(messages))
    with no_object_id_recompute():
        packed = [_inline(message) for message in messages]
    ids: list[str] = []
    for batch in _batches(packed):
        protos, trees = zip(*batch, strict=True)
        answer = grid._runtime_client.PushMessages(
            PushAppMessagesRequest(messages_list=protos, message_object_trees=trees)
        )
        ids += answer.message_ids
    return ids


def pull(grid: Grid, message_ids: list[str]) -> list[Message]:
    """As `grid.pull_messages`, for replies whose content is inline and for those with objects."""
    if not isinstance(grid, HttpGrid):
        return list(grid.pull_messages(message_ids))
    client, node, run_id = grid._runtime_client, grid.node, grid.run.run_id
    answer = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    replies: list[Message] = []
    for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
        reply = message_from_proto(proto)
        if not _is_whole(reply):
            try:
                reply = _fetch(
                    proto,
                    tree,
                    make_pull_object_fn_protobuf(client.PullObject, node, run_id),
                    make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id),
                )
            except ObjectPullError as error:
                reply = make_message(reply.metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)))
        replies.append(reply)
    return replies


def _inline(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    """A message as one piece. Its object is announced, since SuperLink wants one, but never sent."""
    message.metadata.__dict__["_message_id"] = message.object_id
    return message_to_proto(message), ObjectTree(object_id=message.object_id)


def _is_whole(message: Message) -> bool:
    """Whether a message is here with its content; one that travels by objects is announced with none."""
    return bool(message.has_error() or (message.has_content() and message.content))


def _by_objects(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message_to_proto(remove_content_from_message(message)), get_object_tree(message)


def _fetch(
    proto: ProtoMessage,
    tree: ObjectTree,
    pull_object: Callable[[str], bytes],
    confirm: Callable[[str], None],
) -> Message:
    """The content of an announced message, object by object."""
    message = pull_and_inflate_object_from_tree(
        tree,
        pull_object,
        confirm,
        return_type=Message,
        initial_backoff=FIRST_BACKOFF_S,
        max_time=LONGEST_FETCH_S,
    )
    # The id is not part of the serialised message, and a reply must name it.
    message.metadata.__dict__["_message_id"] = proto.metadata.message_id
    return message


def _batches(
    packed: list[tuple[ProtoMessage, ObjectTree]],
) -> Iterator[list[tuple[ProtoMessage, ObjectTree]]]:
    """Runs of messages that are not too large together for one request."""
    batch: list[tuple[ProtoMessage, ObjectTree]] = []
    size = 0
    for proto, tree in packed:
        if batch and size + proto.ByteSize() > LARGEST_REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((proto, tree))
        size += proto.ByteSize()
    if batch:
        yield batch


def _key_pair() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    """New keys. Flower's own are of P-384: key and signature make every request 90 bytes longer."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    return private_key, private_key.public_key()


def _count(client: FleetHttpClient, meter: Meter) -> None:
    """Have the meter count what the client's sockets carry: HTTP with its headers, before encryption."""
    pool = client._client._transport._pool  # type: ignore[attr-defined]
    pool._network_backend = _Metered(pool._network_backend, meter)


class _Metered(httpcore.NetworkBackend):
    """Opens sockets that are counted."""

    def __init__(self, inner: httpcore.NetworkBackend, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Counted(self._inner.connect_tcp(*args, **kwargs), self._meter)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Counted(httpcore.NetworkStream):
    """A socket whose bytes are counted, or the TLS stream on top of one."""

    def __init__(self, inner: httpcore.NetworkStream, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        content = self._inner.read(max_bytes, timeout)
        self._meter.count(received=len(content))
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        self._meter.count(sent=len(buffer))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Counted(self._inner.start_tls(*args, **kwargs), self._meter)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _translated_errors:
    """Turns errors of HTTP and of Flower into the four kinds that a caller can act on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case httpx.HTTPStatusError(response=response):
                match response.status_code:
                    case 403 if REFUSED_HEADER.decode() in response.headers:
                        raise ShutOut(_detail(response)) from error
                    case 401:
                        raise Forgotten(
                            "the server does not know this node, or the clocks differ by minutes"
                        ) from error
                    case 403:
                        raise RunOver from error
                    case 429 | 500 | 502 | 503 | 504:
                        said = f"the server answered {response.status_code} {_detail(response)}"
                        raise Unreachable(said.strip()) from error
                    case _:
                        raise Refused(f"{response.status_code}: {response.text[:200]}") from error
            case httpx.TransportError():
                raise Unreachable(_in_words(error)) from error
            case ObjectPullError() | ObjectPushError():
                raise Unreachable(str(error)) from error
            case ValueError():
                raise Unreachable(f"the answer is not Flower's: {error}") from error


TLS_IN_WORDS = {
    "certificate has expired": "the server's certificate has expired",
    "not yet valid": "the server's certificate is not valid yet, or this machine's clock is behind",
    "unable to get local issuer": "the server's certificate is from another CA than client.tls_ca",
    "self-signed certificate": "the server's certificate is from another CA than client.tls_ca",
    "signature failure": "the server's certificate is from another CA than client.tls_ca",
    "mismatch": "the server's certificate is for other names than this one",
    "WRONG_VERSION_NUMBER": "the server speaks plain HTTP, and this client TLS: unset client.tls_ca, or set "
    "server.tls_certificate",
}
"""What went wrong, by a part of how OpenSSL calls it."""


def _in_words(error: httpx.TransportError) -> str:
    """A failure of the connection, with what is known of its cause."""
    said = str(error) or type(error).__name__
    for part, words in TLS_IN_WORDS.items():
        if part in said:
            return f"{words} ({said})"
    if isinstance(error, httpx.ProtocolError | httpx.ReadError):
        return f"{said}; a server that speaks TLS does this to plain HTTP: set client.tls_ca and client.key"
    return said


def _detail(response: httpx.Response) -> str:
    """The reason that an answer gives; empty if it gives none."""
    error = FlowerError.from_json(response.text)
    return str(error.message) if error is not None else ""


def registration(name: str, key: bytes) -> bytes:
    """The body of a request to the Control API that registers a client's public key, in PEM."""
    return bytes(RegisterNodeRequest(public_key=key, name=name).SerializeToString())
