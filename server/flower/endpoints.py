"""SuperLink's HTTP API as the server's gateway sees it: paths, headers, and the one body that it writes."""

from __future__ import annotations

from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.encode()
"""Names the public key that a request is signed with."""

PROTOBUF = PROTOBUF_MEDIA_TYPE.encode()
ACTIVATE = b"/v1/fleet/activate-node"
SELF_SERVICE = (b"/v1/fleet/register-node", b"/v1/fleet/unregister-node")
"""Paths by which a node registers its own key."""

CONTROL_REGISTER = b"/v1/control/register-node"


def registration(name: str, key: bytes) -> bytes:
    """The body of a request to the Control API that registers a client's public key, in PEM."""
    return bytes(RegisterNodeRequest(public_key=key, name=name).SerializeToString())
