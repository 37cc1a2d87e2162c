"""The limits of the web server, over real sockets."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from server.http.connections import Connections, Limits
from server.http.web import WebServer

WITHIN_S = 20.0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(body)})


@contextmanager
def serving(limits: Limits) -> Iterator[WebServer]:
    with closing(WebServer("test", echo, "127.0.0.1", 0, 1, Connections(limits))) as server:
        yield server


def connect(server: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S)


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def ask(server: WebServer) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=WITHIN_S)) as connection:
        connection.request("POST", "/", b"12345")
        return connection.getresponse().read()


def limits(**changes: Any) -> Limits:
    return Limits(**{"connections": 20, "unknown": 20, "per_address": 20, "per_client": 2, **changes})


def test_a_request_is_answered_under_more_idle_connections_than_are_allowed() -> None:
    with serving(limits()) as server, ExitStack() as idle:
        connections = [idle.enter_context(connect(server)) for _ in range(60)]
        assert ask(server) == b"5"
        assert received(connections[0]) == b"", "the longest idle one was closed"


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nhost: x\r\n"])
def test_a_connection_without_a_whole_head_is_closed_in_time(sent: bytes) -> None:
    with serving(limits(head_s=0.3)) as server, connect(server) as connection:
        connection.sendall(sent)
        assert received(connection).startswith(b"HTTP/1.1 408")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with serving(limits(body_s=0.3)) as server, connect(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        assert received(connection) == b""
        assert ask(server) == b"5"


def test_a_connection_between_requests_may_be_idle_for_longer_than_a_head_may_take() -> None:
    with serving(limits(head_s=0.2, body_s=0.2)) as server, connect(server) as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
            answer = b""
            while not answer.endswith(b"3\r\n0\r\n\r\n") and not answer.endswith(b"\r\n\r\n3"):
                answer += connection.recv(1000)
            time.sleep(0.5)


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: "])
def test_a_head_without_end_is_refused(start: bytes) -> None:
    with serving(limits(head_bytes=4096)) as server, connect(server) as connection:
        connection.sendall(start)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 64 << 20:
                sent += connection.send(b"x" * 4096)
        assert ask(server) == b"5"


def test_a_head_within_the_limit_is_accepted() -> None:
    with serving(limits(head_bytes=4096)) as server, connect(server) as connection:
        head = b"GET /%s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % (b"x" * 3000)
        connection.sendall(head)
        assert received(connection).startswith(b"HTTP/1.1 200")
