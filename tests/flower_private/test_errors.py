from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest
from flwr.app import Message

from client.transport.errors import RequestRefusedError, RunEndedError, UnknownNodeError, UnreachableError
from client.transport.fleet_connection import FleetConnection
from common.flower.stamps import set_message_id
from tests.flower_private.fake_superlink import RUN_ID, FakeSuperLink, content, question


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UnknownNodeError, "does not know"),
        (403, RunEndedError, ""),
        (400, RequestRefusedError, "400: because"),
        (404, RequestRefusedError, "404: because"),
        (409, RequestRefusedError, "409: because"),
        (413, RequestRefusedError, "413: because"),
        (429, UnreachableError, "429"),
        (500, UnreachableError, "500"),
        (502, UnreachableError, "502"),
        (503, UnreachableError, "503"),
        (504, UnreachableError, "504"),
    ],
)
def test_each_http_status_raises_its_exception(
    superlink: FakeSuperLink, connection: FleetConnection, status: int, kind: type[Exception], message: str
) -> None:
    for name in ("pull-messages", "send-node-heartbeat", "get-run", "register-node", "push-messages"):
        superlink.answers[f"/v1/fleet/{name}"] = (status, b"because")
    asked = question()
    set_message_id(asked)
    reply = Message(content(b"x"), reply_to=asked)
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
        assert message in str(caught.value)


def test_a_long_answer_is_cut_in_the_error(superlink: FakeSuperLink, connection: FleetConnection) -> None:
    superlink.answers["/v1/fleet/pull-messages"] = (404, b"x" * 10_000)
    with pytest.raises(RequestRefusedError) as caught:
        connection.receive()
    assert len(str(caught.value)) < 300


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connection = FleetConnection(f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UnreachableError, match="refused"):
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
        with pytest.raises(UnreachableError) as caught:
            connection.open()
        assert str(caught.value)
        connection.close()
        thread.join()


def test_an_answer_that_is_not_flowers_is_an_error_of_the_connection(
    superlink: FakeSuperLink, connection: FleetConnection
) -> None:
    superlink.answers["/v1/fleet/pull-messages"] = (200, b"<html>a proxy's login page</html>")
    with pytest.raises((UnreachableError, RequestRefusedError)):
        connection.receive()
