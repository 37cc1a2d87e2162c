from __future__ import annotations

from flwr.proto.control_pb2 import RegisterNodeRequest

from server.flower.endpoints import registration


def test_a_registration_is_a_message_of_the_control_api() -> None:
    request = RegisterNodeRequest.FromString(registration("edge-7", b"key"))
    assert (request.name, request.public_key) == ("edge-7", b"key")
