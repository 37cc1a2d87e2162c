"""SuperLink's HTTP API as the gateway uses it: paths, headers, and the body of a key registration."""

from __future__ import annotations

from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.encode()
"""The request header with the client's public key, in base64 of PEM."""

PROTOBUF = PROTOBUF_MEDIA_TYPE.encode()
ACTIVATE = b"/v1/fleet/activate-node"
SELF_REGISTRATION = (b"/v1/fleet/register-node", b"/v1/fleet/unregister-node")
"""Paths by which a node registers or unregisters its own key."""

CONTROL_REGISTER = b"/v1/control/register-node"


def registration(name: str, key: bytes) -> bytes:
    """Return the body of the Control API request that registers a client's public key, given in PEM."""
    return bytes(RegisterNodeRequest(public_key=key, name=name).SerializeToString())
