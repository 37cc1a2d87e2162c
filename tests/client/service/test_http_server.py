"""The door of a detector for probes: it answers under idle, slow and oversized connections."""

from __future__ import annotations

import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus

import pytest

from client.service.http_server import MAX_CONNECTIONS, MAX_HEAD_BYTES, HttpServer
from tests.waiting import eventually


def broken() -> tuple[HTTPStatus, str, bytes]:
    raise ValueError("a defect")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    pages = {"/healthz": lambda: (HTTPStatus.OK, "text/plain", b"well"), "/broken": broken}
    opened = HttpServer("127.0.0.1", 0, pages)
    yield opened
    opened.close()


def get(server: HttpServer) -> bytes:
    url = f"http://127.0.0.1:{server.port}/healthz"
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nx: "], ids=["idle", "in a header"])
def test_a_probe_is_answered_under_more_connections_than_are_allowed(
    server: HttpServer, begun: bytes
) -> None:
    before = most = threading.active_count()
    with ExitStack() as stack:
        for number in range(10 * MAX_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            connection.sendall(begun)
            if number % 40 == 39:
                assert get(server) == b"well"
            most = max(most, threading.active_count())
        assert most - before <= 2 * MAX_CONNECTIONS, "threads of closed connections end soon, not at once"
        assert get(server) == b"well"
    assert eventually(lambda: threading.active_count() <= before)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9100", 200), ("[::1]:9100", 200), ("10.1.2.3", 200), ("localhost", 200),
        ("LocalHost.:9100", 200), (socket.gethostname(), 200), ("edge-7.example:9100", 200),
        ("EDGE-7.example", 200), ("", 200), (None, 200),
        ("attacker.example:9100", 421), ("attacker.example", 421), ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example:9100", 421), ("edge-7.example.attacker.example", 421),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/unknown"])
def test_only_names_of_this_machine_are_answered(path: str, host: str | None, code: int) -> None:
    def page() -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, "text/plain", b"well"

    opened = HttpServer("127.0.0.1", 0, {"/healthz": page, "/metrics": page}, hosts=("edge-7.example",))
    try:
        with socket.create_connection(("127.0.0.1", opened.port), 10) as connection:
            header = "" if host is None else f"Host: {host}\r\n"
            connection.sendall(f"GET {path} HTTP/1.1\r\n{header}\r\n".encode())
            with connection.makefile("rb") as answer:
                status, text = int(answer.readline().split()[1]), answer.read().decode()
    finally:
        opened.close()
    assert status == (404 if code == 200 and path == "/unknown" else code)
    if code == 421:
        assert (
            host is not None and f"'{host.rpartition(':')[0] or host}': add it to live.status_hosts" in text
        )


HEADS = [b"GET /" + b"x" * 65_000, b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 90_000]


@pytest.mark.parametrize("head", HEADS, ids=["request line", "headers"])
def test_a_head_without_an_end_is_not_read_to_its_end(server: HttpServer, head: bytes) -> None:
    assert len(head) > MAX_HEAD_BYTES
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        received = b""
        try:
            connection.sendall(head)
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:  # it was closed while this side still sent
            pass
    assert len(received) < 1000
    assert get(server) == b"well"


def test_a_defect_in_a_page_is_logged_and_a_connection_that_breaks_off_is_not(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"GET /broken HTTP/1.1\r\n\r\n")
        assert connection.recv(100) == b""
    assert eventually(lambda: "page failed reason=a defect" in caplog.text)
    caplog.clear()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
    assert get(server) == b"well"
    assert caplog.text == ""
