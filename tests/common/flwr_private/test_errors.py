from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest
from fake_superlink import RUN_ID, FakeSuperLink, content, question
from flwr.app import Message

from common.flwr_private.connection import FleetConnection
from common.flwr_private.errors import Forgotten, Refused, RunOver, Unreachable
from common.flwr_private.stamps import number


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
    asked = question()
    number(asked)
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
