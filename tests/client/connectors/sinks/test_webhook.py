from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.connectors.sinks import open_sink
from client.connectors.sinks.contract import AnsweredError, NotYetError, RefusedError
from client.connectors.sinks.webhook import WebhookSink


class Server:
    """Answers every request alike, and keeps its path and headers."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 200, {"Content-Length": "0"}, b""
        self.moved: dict[str, tuple[int, str]] = {}
        """Other answers, status and location, by path."""
        self.requests: list[tuple[str, Message]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, self.headers))
                if self.path in outer.moved:
                    status, location = outer.moved[self.path]
                    self.send_response(status)
                    self.send_header("Location", location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.http.server_port}"

    def headers_of(self, notice: bytes, address: str = "http://{place}/hook") -> Message:
        open_sink(address.format(place=self.place)).deliver(notice)
        return self.requests[-1][1]


@pytest.fixture
def server() -> Iterator[Server]:
    result = Server()
    thread = threading.Thread(target=result.http.serve_forever, args=(0.01,))
    thread.start()
    yield result
    result.http.shutdown()
    thread.join()
    result.http.server_close()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_answers_that_accept(server: Server, status: int) -> None:
    server.status = status
    open_sink(f"http://{server.place}").deliver(b"{}")
    assert [path for path, _ in server.requests] == ["/"]


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 503])
def test_other_answers_are_errors_that_name_the_status(server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(OSError, match=f"webhook http://{server.place}/hook: answered {status}"):
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 451])
def test_an_answer_that_refuses_the_notice(server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(RefusedError, match=f"answered {status}"):
        open_sink(f"http://{server.place}/hook").deliver(b"{}")


@pytest.mark.parametrize("status", [301, 302, 303, 408, 425, 429, 500, 503])
def test_an_answer_after_which_the_notice_is_sent_again(server: Server, status: int) -> None:
    server.status, server.headers = status, {"Location": f"http://{server.place}/elsewhere"}
    with pytest.raises(AnsweredError, match=f"answered {status}"):
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert [path for path, _ in server.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), ("0", 0), ("999999999", 3600), ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
     ("Fri, 01 Jan 2100 00:00:00 GMT", 3600)],
)  # fmt: skip
@pytest.mark.parametrize("status", [429, 503])
def test_the_pause_that_the_receiver_asks_for(
    server: Server, status: int, header: str, seconds: float
) -> None:
    server.status, server.headers = status, {"Retry-After": header}
    with pytest.raises(NotYetError, match=f"answered {status}") as caught:
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert caught.value.after_s == seconds


def test_a_date_counts_by_the_clock_of_the_receiver(server: Server) -> None:
    server.http.RequestHandlerClass.date_time_string = lambda *_: "Thu, 01 Jan 2099 00:00:00 GMT"  # type: ignore[attr-defined]
    server.status, server.headers = 503, {"Retry-After": "Thu, 01 Jan 2099 00:02:00 GMT"}
    with pytest.raises(NotYetError) as caught:
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert caught.value.after_s == 120


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_with_a_pause_is_a_refusal(server: Server, status: int) -> None:
    server.status, server.headers = status, {"Retry-After": "5"}
    with pytest.raises(RefusedError, match=f"answered {status}"):
        open_sink(f"http://{server.place}/hook").deliver(b"{}")


def test_a_redirect_that_is_not_followed_is_named(server: Server) -> None:
    server.moved = {"/hook": (301, "https://elsewhere.example/hook")}
    with pytest.raises(OSError, match=r"answered 301 .* https://elsewhere\.example/hook"):
        open_sink(f"http://{server.place}/hook").deliver(b"{}")


@pytest.mark.parametrize("header", ["", "soon", "-5", "1e3"])
def test_an_unreadable_pause_is_ignored(server: Server, header: str) -> None:
    server.status, server.headers = 429, {"Retry-After": header}
    with pytest.raises(OSError, match="answered 429") as caught:
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert not isinstance(caught.value, NotYetError)


@pytest.mark.parametrize(("status", "again"), [(307, ["/hook", "/new"]), (308, ["/new"])])
def test_a_redirect_is_followed_and_a_permanent_one_remembered(
    server: Server, status: int, again: list[str]
) -> None:
    server.moved = {"/hook": (status, "/new?a=b")}
    sink = open_sink(f"http://user:word@{server.place}/hook")
    sink.deliver(b"{}")
    sink.deliver(b"{}")
    assert [path.partition("?")[0] for path, _ in server.requests] == ["/hook", "/new", *again]
    assert all("Authorization" in headers for _, headers in server.requests)


def test_a_password_is_not_sent_to_another_host(server: Server) -> None:
    port = server.place.partition(":")[2]
    server.moved = {"/hook": (307, f"http://localhost:{port}/new")}
    open_sink(f"http://user:word@{server.place}/hook").deliver(b"{}")
    assert ["Authorization" in headers for _, headers in server.requests] == [True, False]


def test_a_remembered_place_that_fails_is_forgotten(server: Server) -> None:
    server.moved = {"/hook": (308, "/new")}
    sink = open_sink(f"http://{server.place}/hook")
    sink.deliver(b"{}")
    server.moved = {"/new": (410, "")}
    with pytest.raises(OSError, match="answered 410"):
        sink.deliver(b"{}")
    sink.deliver(b"{}")
    assert [path for path, _ in server.requests] == ["/hook", "/new", "/new", "/hook"]


@pytest.mark.parametrize("location", ["/hook", "ftp://x/", "http://", "mailto:a@b"])
def test_a_redirect_that_leads_nowhere_ends(server: Server, location: str) -> None:
    server.moved = {"/hook": (308, location)}
    with pytest.raises(OSError, match="answered 308") as caught:
        open_sink(f"http://{server.place}/hook").deliver(b"{}")
    assert not isinstance(caught.value, RefusedError)
    assert len(server.requests) <= 6


def test_an_accepting_answer_whose_body_breaks_off_accepts(server: Server) -> None:
    server.headers, server.body = {"Content-Length": "100"}, b"short"
    open_sink(f"http://{server.place}").deliver(b"{}")


@pytest.mark.parametrize(
    ("notice", "key"),
    [
        (b'{"id":"a1","kind":"incident_started"}', "a1-incident_started"),
        (b'{"id":"a1"}', "a1"),
        (b"{}", None),
        (b'{"id":7}', None),
        (b'{"id":"two\\nlines"}', None),
        ('{"id":"☃"}'.encode(), None),
        (b"[1]", None),
    ],
)
def test_the_header_that_tells_a_repeated_notice(server: Server, notice: bytes, key: str | None) -> None:
    headers = server.headers_of(notice)
    assert headers["Idempotency-Key"] == key
    assert headers["Content-Type"] == "application/json"


def test_user_and_password_become_basic_authentication(server: Server) -> None:
    sent = server.headers_of(b"{}", "http://edge:p%40%3A%C3%A4@{place}/")["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == "edge:p@:ä".encode()
    assert server.headers_of(b"{}")["Authorization"] is None


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(OSError, match=f"webhook {url}: timed out"):
            WebhookSink(url, timeout_s=0.1).deliver(b"{}")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A key and a certificate of this host."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    options = "-x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=127.0.0.1"
    files = ["-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "c.pem")]
    subprocess.run(
        ["openssl", "req", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1", *files],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "k.pem", tmp_path / "c.pem"


ENDLESS = {
    "status": (b"", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "header": (b"HTTP/1.1 500 no\r\nx: ", b"y"),
    "headers": (b"HTTP/1.1 500 no\r\n", b""),
}
"""Answers without an end: a beginning, and what comes again and again after it."""


class Trickler:
    """A server that sends a little again and again, so that no single wait of a client is long."""

    def __init__(self, beginning: bytes, more: bytes, context: ssl.SSLContext | None) -> None:
        self._beginning, self._more, self._context = beginning, more, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        accepted, _ = self._listener.accept()
        if self._context is not None:
            accepted = self._context.wrap_socket(accepted, server_side=True)
        with suppress(OSError), accepted:
            accepted.recv(1 << 16)
            accepted.sendall(self._beginning)
            while not self._stop.wait(0.02):
                accepted.sendall(self._more)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("part", ENDLESS)
def test_a_server_whose_answer_never_ends(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, part: str, tls: bool
) -> None:
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    server = Trickler(*ENDLESS[part], context)
    threads = threading.active_count()
    try:
        url = f"http{'s' if tls else ''}://127.0.0.1:{server.port}/hook"
        with pytest.raises(OSError, match=r"no answer within 0\.3 s|timed out|answered 500"):
            WebhookSink(url, timeout_s=0.1).deliver(b"{}")
        assert threading.active_count() == threads
    finally:
        server.close()


def test_an_accepting_answer_whose_body_never_ends_accepts() -> None:
    server = Trickler(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", b"x", None)
    try:
        WebhookSink(f"http://127.0.0.1:{server.port}/hook", timeout_s=0.1).deliver(b"{}")
    finally:
        server.close()


def test_a_server_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as strange:

        def greet() -> None:
            connection, _ = strange.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(OSError, match="webhook http://127"):
            open_sink(f"http://127.0.0.1:{strange.getsockname()[1]}").deliver(b"{}")
        thread.join()


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(OSError, match=r"webhook http://no\.such\.host\.invalid/"):
        open_sink("http://no.such.host.invalid/").deliver(b"{}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate with")
@pytest.mark.parametrize("wrong", ["issuer", "host"])
def test_a_certificate_that_is_not_trusted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    options = "-x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=elsewhere"
    subprocess.run(
        ["openssl", "req", *options.split(), "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", certificate if wrong == "host" else "")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    with pytest.raises(OSError, match="certificate"):
        open_sink(f"https://{server.place}/").deliver(b"{}")
    assert server.requests == []
