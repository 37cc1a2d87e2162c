from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from client.connectors.addresses import Address
from client.connectors.sinks.webhook import WebhookSink
from common.security.tokens import edge_token
from server.federation import status_file
from server.monitoring.alerts import MAX_BYTES
from server.monitoring.status import ServerStatus
from server.monitoring.status_server import PAGE, StatusServer
from server.storage.history import History
from tests.server.monitoring.test_alerts import packed
from tests.server.storage.test_history import finished, reply

TOKEN = "open-sesame-open-sesame"


def sender(content: Any) -> str:
    """The client that a notice names, or the usual one."""
    try:
        return str(json.loads(content)["client"])
    except (TypeError, ValueError):
        return "edge-7"


class Served:
    """A status server on a free port."""

    def __init__(
        self,
        folder: Path,
        where: Path | str | None = None,
        token: str | None = TOKEN,
        port: int = 0,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.history = History(where or folder / "history.sqlite")
        self.status = ServerStatus(folder, lambda: True)
        self.revoked: set[str] = set()
        self.refused: list[tuple[str, ...]] = []
        self.status_server = StatusServer(
            f"127.0.0.1:{port}", self.status, self.history, token, hosts, self.admits,
            lambda *refusal: self.refused.append(refusal),
        )  # fmt: skip

    def ask(
        self, path: str, headers: dict[str, str] | None = None, body: Any = None, method: str | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.status_server.port, timeout=20)
        ) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read().decode()

    def admits(self, client: str) -> bool:
        return client not in self.revoked

    def json(self, path: str) -> Any:
        return json.loads(self.ask(path)[1])

    def post(self, content: Any, token: str | None = None) -> tuple[int, str]:
        if token is None:
            token = edge_token(TOKEN, sender(content))
        answer, text = self.ask("/alerts", {"Authorization": f"Bearer {token}"}, content)
        return answer.status, text

    def close(self) -> None:
        self.status_server.close()
        self.history.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with closing(Served(tmp_path)) as running:
        yield running


def test_the_page_refers_to_no_other_host(served: Served) -> None:
    answer, text = served.ask("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', text)
    assert {"page/app.js", "page/style.css", "page/icon.svg"} <= set(named)
    for name in {*named, *(f"page/{path.name}" for path in PAGE.iterdir())}:
        assert served.ask(f"/{name}")[0].status == 200
    for path in PAGE.iterdir():
        hosts = re.findall(r"https?://[^\s\"'<>]+", path.read_text())
        assert set(hosts) <= {"http://www.w3.org/2000/svg"}, path.name


def test_inline_scripts_and_styles_are_neither_used_nor_allowed(served: Served) -> None:
    answer, text = served.ask("/")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    for path in PAGE.glob("*.js"):
        unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\.style\b"
        assert not re.search(unsafe, path.read_text()), path.name
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "*" not in policy


@pytest.mark.parametrize("path", ["/", "/status", "/page/app.js", "/page/none.js", "/none", "/incidents"])
def test_each_response_has_the_security_headers(served: Served, path: str) -> None:
    headers = served.ask(path)[0].headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/../status_server.py",
        "/page/%2e%2e/status_server.py",
        "/page//etc/passwd",
        "/../status_server.py",
    ],
)
def test_other_files_are_not_served(served: Served, path: str) -> None:
    assert served.ask(path)[0].status == 404


def test_numbers_that_are_not_finite_become_null(served: Served, tmp_path: Path) -> None:
    status = {"at": 0.0, "clients": {"a": {"error": float("nan")}}, "stopped": None}
    status_file.write(tmp_path / "fleet.json", status)
    served.history.add_round(finished(1, error=float("inf")), [])

    def refuse(name: str) -> None:
        raise AssertionError(name)

    shown = json.loads(served.ask("/status")[1], parse_constant=refuse)
    assert shown["clients"]["a"]["error"] is None
    rounds = json.loads(served.ask("/rounds")[1], parse_constant=refuse)
    assert rounds["rounds"][0]["error"] is None


def test_rounds_after_a_known_one(served: Served) -> None:
    assert served.json("/rounds") == {"newest": 0, "rounds": []}
    for number in (1, 2, 3):
        served.history.add_round(finished(number), [reply("a")])
    everything = served.json("/rounds")
    assert [row["number"] for row in everything["rounds"]] == [1, 2, 3]
    newer = served.json(f"/rounds?after={everything['rounds'][1]['rowid']}")
    assert [row["number"] for row in newer["rounds"]] == [3]
    assert served.json(f"/rounds?after={newer['newest']}")["rounds"] == []
    assert served.ask("/rounds?after=x")[0].status == 400
    assert served.ask(f"/rounds?after={10**30}")[0].status == 200


def test_a_notice_posted_twice_is_stored_and_counted_once(served: Served) -> None:
    assert served.post(packed()) == (204, "")
    assert served.post(packed()) == (204, "")
    assert served.post(packed(kind="incident_ended", ended=1e9 + 5)) == (204, "")
    (incident,) = served.json("/incidents")["incidents"]
    assert (incident["client"], incident["open"]) == ("edge-7", False)
    assert incident["alert"]["causes"][0]["value"] == 98.0
    assert served.json("/status")["notices"] == {"incident_started": 1, "incident_ended": 1}
    assert 'flockwatch_server_notices_total{kind="incident_ended"} 1.0' in served.ask("/metrics")[1]


def test_a_webhook_sink_delivers_to_the_server(served: Served) -> None:
    token = edge_token(TOKEN, "edge-7")
    address = f"http://edge-7:{token}@127.0.0.1:{served.status_server.port}/alerts"
    WebhookSink.at(Address.parse(address)).deliver(packed())
    assert [i["client"] for i in served.json("/incidents")["incidents"]] == ["edge-7"]
    wrong = WebhookSink.at(Address.parse(address.replace(token, "guessed-guessed-guessed")))
    with pytest.raises(OSError, match="401"):
        wrong.deliver(packed(id="other"))


def test_incidents_that_have_not_changed_are_not_sent_again(served: Served) -> None:
    tag = served.ask("/incidents")[0].headers["ETag"]
    assert served.ask("/incidents", {"If-None-Match": tag})[0].status == 304
    served.post(packed())
    changed, _ = served.ask("/incidents", {"If-None-Match": tag})
    assert changed.status == 200
    assert changed.headers["ETag"] != tag


@pytest.mark.parametrize(
    "token", ["", "guessed", TOKEN, edge_token(TOKEN, "edge-8"), edge_token(TOKEN, "edge-7")[:-1]]
)
def test_a_wrong_token_is_refused(served: Served, token: str) -> None:
    status, text = served.post(packed(), token)
    assert (status, TOKEN in text) == (401, False)
    assert served.json("/incidents")["incidents"] == []


def test_without_a_token_nothing_is_read(served: Served) -> None:
    for body in (b"", b"{", b"x" * (MAX_BYTES + 1)):
        answer, text = served.ask("/alerts", {}, body)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert text.startswith("missing token")


def test_an_edge_posts_as_itself_only(served: Served) -> None:
    own = edge_token(TOKEN, "edge-7")
    assert served.post(packed(client="edge-7"), own)[0] == 204
    assert served.post(packed(client="edge-8"), own)[0] == 401
    served.revoked.add("edge-7")
    status, text = served.post(packed(client="edge-7", id="2"), own)
    assert (status, text) == (403, "'edge-7' was revoked\n")
    assert served.post(packed(client="edge-8"))[0] == 204
    wrong, revoked = "a notice with a wrong token", "a notice of a revoked client"
    assert served.refused == [("edge-8", wrong, "127.0.0.1"), ("edge-7", revoked, "127.0.0.1")]
    assert {i["client"] for i in served.json("/incidents")["incidents"]} == {"edge-7", "edge-8"}


def test_one_client_cannot_flood_the_history(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.monitoring.alerts.MAX_PER_MINUTE", 3)
    monkeypatch.setattr("server.monitoring.status_server.clock", lambda: 6000.0)
    codes = [served.post(packed(id=str(n)))[0] for n in range(5)]
    assert codes == [204, 204, 204, 429, 429]
    answer, _ = served.ask(
        "/alerts", {"Authorization": f"Bearer {edge_token(TOKEN, 'edge-7')}"}, packed(id="9")
    )
    assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
    assert served.post(packed(client="edge-8"))[0] == 204
    monkeypatch.setattr("server.monitoring.status_server.clock", lambda: 6060.0)
    assert served.post(packed(id="9"))[0] == 204


def test_a_server_without_a_token_refuses_alerts(tmp_path: Path) -> None:
    with closing(Served(tmp_path, token=None)) as served:
        status, text = served.post(packed())
        assert (status, served.json("/incidents")) == (403, {"accepts_notices": False, "incidents": []})
        assert "server.alerts_token" in text


def test_an_invalid_notice_is_refused_with_a_reason(served: Served) -> None:
    assert served.post(b"{")[0] == 422
    status, text = served.post(packed(events=-1))
    assert (status, text.split(":")[0]) == (422, "events")
    assert served.ask("/alerts")[0].status == 405
    assert served.post(b"x" * (MAX_BYTES + 1))[0] == 413
    assert served.post(iter([b"x" * 2**16] * 5))[0] == 413  # chunked, of no declared length
    assert served.json("/incidents")["incidents"] == []


def test_an_incomplete_body_times_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.monitoring.status_server.POST_WITHIN_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.status_server.port), 20) as slow:
        lines = ["POST /alerts HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", "Content-Length: 9"]
        slow.sendall("\r\n".join([*lines, "", "{"]).encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_an_unreadable_database_does_not_affect_the_status(tmp_path: Path) -> None:
    with closing(Served(tmp_path, "postgresql://u:hidden@127.0.0.1:1/d")) as served:
        for path in ("/rounds", "/incidents"):
            answer, text = served.ask(path)
            assert answer.status == 503
            assert "Connection refused" in text and "hidden" not in text
        assert served.post(packed())[0] == 503  # the edge keeps it, and posts it again
        assert served.ask("/status")[0].status == 200
        assert served.ask("/healthz")[0].status == 200


def test_stored_notices_survive_a_restart(tmp_path: Path) -> None:
    with closing(Served(tmp_path)) as served:
        served.history.add_round(finished(1), [reply("a")])
        served.post(packed())
    with closing(Served(tmp_path)) as served:
        assert [row["number"] for row in served.json("/rounds")["rounds"]] == [1]
        assert served.json("/incidents")["incidents"][0]["open"]
        assert served.post(packed())[0] == 204
        assert len(served.json("/incidents")["incidents"]) == 1


def test_an_address_in_use_is_an_error(served: Served, tmp_path: Path) -> None:
    with pytest.raises(OSError), closing(History(tmp_path / "other.sqlite")) as history:
        StatusServer(f"127.0.0.1:{served.status_server.port}", served.status, history)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("[::1]", 200), ("localhost", 200),
        ("LOCALHOST.:80", 200), ("10.1.2.3", 200), (socket.gethostname(), 200), ("proxy.example", 200),
        ("", 200), ("proxy.example:80", 200),
        ("attacker.example:8080", 421), ("attacker.example", 421), ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example", 421), ("a\x00b", 421),
    ],
)  # fmt: skip
def test_only_names_of_this_server_are_answered(tmp_path: Path, host: str, code: int) -> None:
    with closing(Served(tmp_path, hosts=("proxy.example",))) as served:
        for path in ("/status", "/", "/incidents"):
            with socket.create_connection(("127.0.0.1", served.status_server.port), timeout=20) as connection:
                request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                with connection.makefile("rb") as answer:
                    status = int(answer.readline().split()[1])
                    text = answer.read().decode()
            assert status == (400 if "\x00" in host else code)
            if status == 421:
                assert "this machine does not know the name" in text and "server.status_hosts" in text
        assert served.ask("/healthz", {"Host": host.replace("\x00", "")})[0].status in (200, 503)


def test_probes_are_answered_under_more_idle_connections_than_are_allowed(served: Served) -> None:
    with ExitStack() as idle:
        for _ in range(300):
            address = ("127.0.0.1", served.status_server.port)
            idle.enter_context(socket.create_connection(address, timeout=20))
        answer, text = served.ask("/healthz")
        assert answer.status in (200, 503)
        assert json.loads(text), "the answer of the probe itself"
