"""The gateway over real sockets and TLS, with an upstream server that records its requests."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.transport.errors import AccessDeniedError, UnreachableError
from client.transport.fleet_connection import FleetConnection
from common.config import ConfigError
from common.security.certificates import CertificateError
from common.security.keys import new_private_key, public_key_pem
from common.settings import ServerSettings
from flockwatch.certs import Certificates
from server.access.client_endpoint import ClientEndpoint
from server.access.gateway import MAX_AT_ONCE, Gateway
from server.access.listener import Listener, ListenError, gateway_limits
from server.access.roster import Roster
from server.flower.superlink_process import free_port
from server.http.connections import Connections, Limits
from tests.waiting import eventually

KEY, OTHER = new_private_key(), new_private_key()
HEADERS = {"flwr-public-key": b64encode(public_key_pem(KEY.public_key())).decode()}
FLEET, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"


class Upstream:
    """A stand-in for SuperLink that echoes bodies and records requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                length = self.headers["content-length"]
                body = self.rfile.read(-1 if length is None else int(length))
                outer.before_answer()
                self.send_response(412 if self.path == "/v1/control/register-node" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.before_answer: Callable[[], object] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Front:
    """A gateway with TLS, its certificates, and its roster."""

    def __init__(
        self,
        folder: Path,
        upstream: Upstream,
        days: int = 365,
        host: str = "127.0.0.1",
        alerts: tuple[str, int] | None = None,
        limits: Limits | None = None,
        max_update_bytes: int = 20_000_000,
    ) -> None:
        self.upstream = upstream
        list(Certificates(folder / "certs").make([], [], days))
        self.ca = folder / "certs" / "ca.pem"
        self.roster = Roster(folder)
        connections = Connections(limits or gateway_limits())
        gateway = Gateway(upstream.port, Roster(folder), alerts, connections, lambda: max_update_bytes)
        pair = folder / "certs" / "server.pem", folder / "certs" / "server.key"
        self.listener = Listener(host, 0, gateway, *pair, connections)
        self.address = f"{host}:{self.listener.port}"

    def ask(
        self,
        path: str = FLEET,
        headers: dict[str, str] | None = None,
        body: bytes = b"x",
        method: str = "POST",
    ) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = HTTPSConnection("127.0.0.1", self.listener.port, context=context, timeout=10)
        try:
            connection.request(method, path, body, HEADERS if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def front(tmp_path: Path, upstream: Upstream) -> Iterator[Front]:
    gateway = Front(tmp_path, upstream)
    yield gateway
    gateway.listener.close()


@pytest.fixture
def enrolled(front: Front) -> Front:
    front.roster.enroll("a", KEY.public_key())
    return front


def reason(answer: tuple[int, bytes]) -> str:
    assert answer[0] == 403
    return str(json.loads(answer[1])["detail"])


def test_a_registered_clients_request_is_forwarded_with_its_headers(enrolled: Front) -> None:
    body = bytes(range(256)) * 40_000  # 10 MB, in many pieces
    assert enrolled.ask(PUSH, HEADERS | {"flwr-signature": "s"}, body) == (200, body)
    ((path, headers),) = enrolled.upstream.asked
    assert path == PUSH
    assert headers["flwr-public-key"] == HEADERS["flwr-public-key"]
    assert headers["flwr-signature"] == "s"
    assert headers["host"] == "127.0.0.1"


def test_a_body_is_streamed(enrolled: Front) -> None:
    context = ssl.create_default_context(cafile=str(enrolled.ca))
    connection = HTTPSConnection("127.0.0.1", enrolled.listener.port, context=context, timeout=10)
    connection.putrequest("POST", PUSH)
    for name, value in HEADERS.items():
        connection.putheader(name, value)
    connection.putheader("content-length", "2000000")
    connection.endheaders(b"x" * 1_000_000)
    eventually(lambda: enrolled.upstream.asked)
    assert enrolled.upstream.paths == [PUSH]
    connection.send(b"x" * 1_000_000)
    assert len(connection.getresponse().read()) == 2_000_000
    connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/pull-messages", "/health", "/docs",
        "/openapi.json", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/x/../../control/start-run", "//v1/fleet/pull-messages", "/v1/fleet/pull-messages?x=1/../",
        "/v1/fleet/", "/V1/FLEET/pull-messages", "/v1/fleet/pull-messages%0d%0ax", "/v1/fleet/pull-messages/",
        "http://127.0.0.1/v1/control/start-run", "/v1/fleet;/v1/control",
    ],
)  # fmt: skip
def test_paths_other_than_the_fleet_api_are_refused(enrolled: Front, path: str) -> None:
    answer = enrolled.ask(path)
    # A query is no part of the path: SuperLink never hears of it.
    if answer[0] == 200:
        assert enrolled.upstream.paths == [FLEET]
    else:
        assert "clients may only use the Fleet API, POST /v1/fleet/..." in reason(answer)
        assert enrolled.upstream.paths == []


def test_alerts_are_forwarded_to_the_status_server_and_its_other_paths_are_refused(tmp_path: Path) -> None:
    superlink, status = Upstream(), Upstream()
    front = Front(tmp_path, superlink, alerts=("127.0.0.1", status.port))
    try:
        token = {"authorization": "Bearer of-the-fleet"}
        assert front.ask("/alerts", token, b"a notice") == (200, b"a notice")
        ((path, headers),) = status.asked
        assert (path, headers["authorization"]) == ("/alerts", "Bearer of-the-fleet")
        for other in ("/alerts/", "/status", "/", "/incidents", "/alerts/../status", "/alerts;x", "//alerts"):
            assert front.ask(other, token)[0] == 403
        assert front.ask("/alerts", token, method="GET")[0] == 403
        assert (len(status.asked), superlink.asked) == (1, [])
    finally:
        front.listener.close()
        superlink.close()
        status.close()


def test_a_status_server_that_does_not_answer_is_reported(tmp_path: Path, upstream: Upstream) -> None:
    front = Front(tmp_path, upstream, alerts=("127.0.0.1", free_port()))
    try:
        code, body = front.ask("/alerts")
    finally:
        front.listener.close()
    assert code == 503
    assert "the status server does not answer" in json.loads(body)["detail"]


def test_alerts_are_refused_without_a_status_server(enrolled: Front) -> None:
    assert enrolled.ask("/alerts")[0] == 403
    assert enrolled.upstream.paths == []


def test_another_method_is_refused(enrolled: Front) -> None:
    assert "POST" in reason(enrolled.ask(method="GET"))
    assert enrolled.upstream.paths == []


def test_a_missing_an_unknown_and_a_revoked_key_are_refused_with_a_reason(
    enrolled: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "server.gateway")
    assert "has no client key: set client.key" in reason(enrolled.ask(headers={}))
    unknown = {"flwr-public-key": b64encode(public_key_pem(OTHER.public_key())).decode()}
    assert re.search(r"the key SHA256:\S+ is not registered", reason(enrolled.ask(headers=unknown)))
    assert "(unreadable) is not registered" in reason(enrolled.ask(headers={"flwr-public-key": "x"}))
    enrolled.roster.revoke("a")
    assert re.search(r"of 'a' was revoked on 20", reason(enrolled.ask()))
    assert enrolled.upstream.paths == []
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert all("refused peer=127.0.0.1" in line for line in messages)
    assert "client=a" in messages[3]


@pytest.mark.parametrize("order", [1, -1])
def test_a_revoked_client_cannot_add_the_key_of_another(enrolled: Front, order: int) -> None:
    enrolled.roster.enroll("b", OTHER.public_key())
    enrolled.roster.revoke("b")
    context = ssl.create_default_context(cafile=str(enrolled.ca))
    connection = HTTPSConnection("127.0.0.1", enrolled.listener.port, context=context, timeout=10)
    connection.putrequest("POST", FLEET)
    for key in (KEY, OTHER)[::order]:
        connection.putheader("flwr-public-key", b64encode(public_key_pem(key.public_key())).decode())
    connection.putheader("content-length", "0")
    connection.endheaders()
    answer = connection.getresponse()
    assert "more than one client key" in reason((answer.status, answer.read()))
    connection.close()
    assert enrolled.upstream.paths == []


def test_a_repeated_refusal_is_logged_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "server.gateway")
    for _ in range(5):
        front.ask()
    assert len(caplog.records) == 1


def test_a_revoked_client_is_refused_on_its_open_connection(enrolled: Front) -> None:
    context = ssl.create_default_context(cafile=str(enrolled.ca))
    connection = HTTPSConnection("127.0.0.1", enrolled.listener.port, context=context, timeout=10)
    codes = []
    for _ in range(2):
        connection.request("POST", FLEET, b"x", HEADERS)
        answer = connection.getresponse()
        answer.read()
        codes.append(answer.status)
        enrolled.roster.revoke("a")
    connection.close()
    assert codes == [200, 403]


def test_a_refusal_reaches_a_client_that_sends_a_large_body(front: Front) -> None:
    assert "not registered" in reason(front.ask(body=b"x" * 5_000_000))


def test_a_client_cannot_register_a_key(enrolled: Front) -> None:
    for path in ("/v1/fleet/register-node", "/v1/fleet/unregister-node"):
        assert "only the operator registers keys" in reason(enrolled.ask(path))


def test_a_key_is_registered_with_superlink_before_its_node_is_activated(enrolled: Front) -> None:
    assert enrolled.ask("/v1/fleet/activate-node")[0] == 200
    assert enrolled.upstream.paths == ["/v1/control/register-node", "/v1/fleet/activate-node"]


def test_a_damaged_roster_refuses_all_clients(enrolled: Front, tmp_path: Path) -> None:
    (tmp_path / "roster.json").write_bytes(b"{")
    status, body = enrolled.ask()
    assert (status, json.loads(body)["detail"]) == (503, "the server cannot read its roster")


def test_without_superlink_clients_get_status_503(enrolled: Front) -> None:
    enrolled.upstream.close()
    for path in (FLEET, "/v1/fleet/activate-node"):
        status, body = enrolled.ask(path)
        assert status == 503
        assert "SuperLink does not answer" in json.loads(body)["detail"]


def test_a_client_may_disconnect_within_a_request(enrolled: Front) -> None:
    with socket.create_connection(("127.0.0.1", enrolled.listener.port)) as plain:
        context = ssl.create_default_context(cafile=str(enrolled.ca))
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as channel:
            head = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\nflwr-public-key: {HEADERS['flwr-public-key']}\r\n"
            channel.sendall(f"{head}content-length: 1000\r\n\r\nhalf".encode())
    assert enrolled.ask() == (200, b"x")


# TLS errors, as client and server report them.


# Limits.


def connected(front: Front) -> HTTPSConnection:
    context = ssl.create_default_context(cafile=str(front.ca))
    connection = HTTPSConnection("127.0.0.1", front.listener.port, context=context, timeout=20)
    connection.connect()
    return connection


def stall(front: Front, path: str, headers: dict[str, str], sent: bytes = b"x") -> HTTPSConnection:
    """Begin a request whose body does not come."""
    connection = connected(front)
    connection.putrequest("POST", path)
    for name, value in {**headers, "content-length": str(len(sent) + 100)}.items():
        connection.putheader(name, value)
    connection.endheaders(sent)
    return connection


@pytest.mark.parametrize(("path", "size"), [(FLEET, 300_000), (PUSH, 2_000_001), ("/alerts", 300_000)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_larger_than_its_path_needs_is_refused(
    tmp_path: Path, upstream: Upstream, path: str, size: int, chunked: bool
) -> None:
    front = Front(tmp_path, upstream, alerts=("127.0.0.1", upstream.port), max_update_bytes=2_000_000)
    front.roster.enroll("a", KEY.public_key())
    headers = HEADERS | ({"transfer-encoding": "chunked"} if chunked else {"content-length": str(size)})
    connection = connected(front)
    try:
        connection.putrequest("POST", path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        if chunked:
            with suppress(OSError):  # the gateway may have closed the connection
                for _ in range(0, size, 10_000):
                    connection.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        answer = connection.getresponse()
        assert answer.status == 413
        assert "the body has more than" in answer.read().decode()
        assert answer.headers["connection"] == "close"
    finally:
        connection.close()
        front.listener.close()


def test_the_largest_update_follows_from_the_newest_version(tmp_path: Path) -> None:
    endpoint = ClientEndpoint(ServerSettings(), tmp_path)
    before = endpoint._max_update_bytes()
    (tmp_path / "versions").mkdir()
    for number, size in ((1, 100), (2, 1_000_000)):
        (tmp_path / "versions" / f"v{number:06d}.safetensors").write_bytes(b"x" * size)
    assert before > endpoint._max_update_bytes() > 4_000_000


def test_quiet_requests_to_alerts_and_to_the_fleet_api_keep_no_client_out(tmp_path: Path) -> None:
    superlink, status = Upstream(), Upstream()
    front = Front(tmp_path, superlink, alerts=("127.0.0.1", status.port))
    front.roster.enroll("a", KEY.public_key())
    stalled = []
    try:
        for _ in range(120):
            stalled.append(stall(front, "/alerts", {}))
        assert front.ask() == (200, b"x")
        assert front.ask("/alerts", {}, b"a notice") == (200, b"a notice")
        assert [path for path, _ in status.asked] == ["/alerts"], "the quiet ones hold no connection"
    finally:
        for connection in stalled:
            connection.close()
        front.listener.close()
        superlink.close()
        status.close()


def test_a_client_keeps_its_connection_while_strangers_fill_all_places(
    tmp_path: Path, upstream: Upstream
) -> None:
    limits = Limits(connections=30, unknown=20, per_address=20, per_client=4)
    front = Front(tmp_path, upstream, limits=limits)
    front.roster.enroll("a", KEY.public_key())
    client, strangers = connected(front), []
    try:
        for _ in range(3):
            client.request("POST", FLEET, b"x", HEADERS)
            assert client.getresponse().read() == b"x"
            for _ in range(50):  # without a TLS handshake
                address = ("127.0.0.1", front.listener.port)
                strangers.append(socket.create_connection(address, timeout=20))
        assert front.ask() == (200, b"x"), "a further connection is accepted"
    finally:
        for connection in [client, *strangers]:
            connection.close()
        front.listener.close()


def test_a_client_has_a_limited_number_of_requests_at_once(enrolled: Front) -> None:
    stalled = [stall(enrolled, PUSH, HEADERS, b"x" * 70_000) for _ in range(MAX_AT_ONCE)]
    try:
        eventually(lambda: len(enrolled.upstream.asked) >= MAX_AT_ONCE)
        code, body = enrolled.ask()
        assert (code, "8 requests at once" in body.decode()) == (503, True)
    finally:
        for connection in stalled:
            connection.close()


def opened(front: Front, ca: Path | None, address: str | None = None) -> FleetConnection:
    roots = None if ca is None else ca.read_bytes()
    connection = FleetConnection(address or front.address, roots, KEY)
    try:
        connection.open()
    finally:
        connection.close()
    return connection


def heard(caplog: pytest.LogCaptureFixture, words: str) -> None:
    eventually(lambda: any(words in record.getMessage() for record in caplog.records))


def test_an_unregistered_client_gets_the_reason(front: Front) -> None:
    with pytest.raises(AccessDeniedError, match=r"the key SHA256:\S+ is not registered: flockwatch enroll"):
        opened(front, front.ca)


def test_both_sides_report_plain_http(enrolled: Front, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UnreachableError, match=r"set client\.tls_ca and client\.key"):
        opened(enrolled, None)
    heard(caplog, "TLS handshake failed reason=the client uses plain HTTP")


def test_both_sides_report_another_ca(
    enrolled: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(Certificates(tmp_path / "other").make([], []))
    with pytest.raises(UnreachableError, match=r"from another CA than client\.tls_ca"):
        opened(enrolled, tmp_path / "other" / "ca.pem")
    heard(caplog, "the client does not trust the CA of this server's certificate")


def test_both_sides_report_an_expired_certificate(
    tmp_path: Path, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    front = Front(tmp_path, upstream, days=-1)
    try:
        with pytest.raises(UnreachableError, match="the server's certificate has expired"):
            opened(front, front.ca)
        heard(caplog, "the client reports that this server's certificate has expired")
    finally:
        front.listener.close()


def test_the_client_reports_a_certificate_for_another_host(tmp_path: Path, upstream: Upstream) -> None:
    front = Front(tmp_path, upstream, host="127.0.0.2")
    try:
        with pytest.raises(UnreachableError, match="the server's certificate is for other names"):
            opened(front, front.ca)
    finally:
        front.listener.close()


def test_the_client_reports_tls_to_a_plain_http_server(enrolled: Front) -> None:
    with pytest.raises(UnreachableError, match="the server speaks plain HTTP, and this client TLS"):
        opened(enrolled, enrolled.ca, f"127.0.0.1:{enrolled.upstream.port}")


# The endpoint.


def test_without_tls_other_machines_need_the_setting_insecure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"'server.host' is 0\.0\.0\.0, .*TLS is off: .*insecure"):
        ClientEndpoint(ServerSettings(host="0.0.0.0"), tmp_path)
    entrance = ClientEndpoint(ServerSettings(host="0.0.0.0", insecure=True), tmp_path)
    heard(caplog, "TLS is off: anyone on the network can read the traffic and join")
    assert entrance.superlink_host == "127.0.0.1"


def test_on_the_loopback_address_clients_connect_to_superlink(tmp_path: Path) -> None:
    entrance = ClientEndpoint(ServerSettings(port=8123), tmp_path)
    entrance.open()
    assert (entrance.superlink_host, entrance.superlink_port) == ("127.0.0.1", 8123)
    entrance.close()


def test_an_unusable_certificate_is_refused_before_anything_starts(tmp_path: Path) -> None:
    list(Certificates(tmp_path).make([], [], days=-1))
    settings = ServerSettings(
        host="10.1.2.3", tls_certificate=tmp_path / "server.pem", tls_key=tmp_path / "server.key"
    )
    with pytest.raises(CertificateError) as caught:
        ClientEndpoint(settings, tmp_path)
    assert "expired on" in str(caught.value)
    assert "is not for '10.1.2.3'" in str(caught.value)


def test_an_insecure_gateway_refuses_the_control_api(tmp_path: Path, upstream: Upstream) -> None:
    port = free_port()
    settings = ServerSettings(host="0.0.0.0", port=port, insecure=True, superlink_port=upstream.port)
    entrance = ClientEndpoint(settings, tmp_path)
    entrance.open()
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        codes = []
        for path in ("/v1/control/start-run", FLEET):
            connection.request("POST", path, b"x")
            answer = connection.getresponse()
            answer.read()
            codes.append(answer.status)
    finally:
        connection.close()
        entrance.close()
    assert codes == [403, 200]
    with pytest.raises((ConnectionError, RemoteDisconnected)):
        HTTPConnection("127.0.0.1", port, timeout=10).request("POST", FLEET, b"x")


def test_an_address_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            Listener("127.0.0.1", port, Gateway(1, None))
