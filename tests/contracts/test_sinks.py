"""The contract of sinks, checked on every sink."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from client.connectors.sinks import Sink, open_sink
from client.connectors.sinks.file import FileSink
from client.connectors.sinks.stdout import StdoutSink
from tests.contracts.broker import Broker
from tests.waiting import eventually

PATIENCE_S = 30.0
NOTICES = [
    json.dumps({"id": f"{i:016x}", "kind": "incident_started", "client": "é"}).encode() for i in range(9)
]


class Far:
    """The other side of a sink."""

    name = ""
    """By which the sink calls it in errors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> Sink:
        raise NotImplementedError

    def taken(self) -> list[bytes]:
        raise NotImplementedError

    def go_down(self) -> None:
        raise NotImplementedError

    def come_back(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Stdout(Far):
    name = "stdout"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "stdout"
        self.fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def open(self) -> Sink:
        return StdoutSink(self.fd)

    def taken(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    def go_down(self) -> None:
        readable = os.open(self.path, os.O_RDONLY)
        os.dup2(readable, self.fd)
        os.close(readable)

    def come_back(self) -> None:
        writable = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.dup2(writable, self.fd)
        os.close(writable)

    def close(self) -> None:
        os.close(self.fd)


class File(Far):
    name = "alerts.jsonl"

    def open(self) -> Sink:
        return open_sink(f"file:{self.folder / 'logs' / 'alerts.jsonl'}")

    def taken(self) -> list[bytes]:
        return (self.folder / "logs" / "alerts.jsonl").read_bytes().splitlines()

    def go_down(self) -> None:
        (self.folder / "logs").rename(self.folder / "away")
        (self.folder / "logs").write_text("in the way")

    def come_back(self) -> None:
        (self.folder / "logs").unlink()
        (self.folder / "away").rename(self.folder / "logs")


class Webhook(Far):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.code = 204
        far = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if far.code < 300:
                    far.received.append(body)
                    far.headers.append(dict(self.headers))
                self.send_response(far.code)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.handler = Handler
        self.port = 0
        self.come_back()
        self.name = f"webhook http://127.0.0.1:{self.port}/hook"

    def open(self) -> Sink:
        return open_sink(f"http://us%40er:secret@127.0.0.1:{self.port}/hook?channel=ops")

    def taken(self) -> list[bytes]:
        return self.received

    def go_down(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def come_back(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.go_down()


class Mqtt(Far):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broker = Broker(folder / "broker")
        self.name = f"broker 127.0.0.1:{self.broker.port}"
        self.received: list[bytes] = []
        self.subscribed = threading.Event()
        self.listener = mqtt.Client(CallbackAPIVersion.VERSION2, "listener", clean_session=False)
        self.listener.on_connect = lambda client, *_: client.subscribe("alerts/+", qos=1)
        self.listener.on_subscribe = lambda *_: self.subscribed.set()
        self.listener.on_message = lambda _c, _d, message: self.received.append(message.payload)
        self.listener.reconnect_delay_set(1, 1)
        self.listener.connect("127.0.0.1", self.broker.port)
        self.listener.loop_start()
        assert self.subscribed.wait(PATIENCE_S)

    def open(self) -> Sink:
        return open_sink(f"mqtt://127.0.0.1:{self.broker.port}/alerts/edge?client_id=sink")

    def taken(self) -> list[bytes]:
        return self.received

    def go_down(self) -> None:
        self.broker.stop()

    def come_back(self) -> None:
        self.subscribed.clear()
        self.broker.start()
        assert self.subscribed.wait(PATIENCE_S)

    def close(self) -> None:
        self.listener.disconnect()
        self.listener.loop_stop()
        self.broker.stop()


@pytest.fixture(params=[Stdout, File, Webhook, Mqtt], ids=lambda kind: kind.__name__.lower())
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Far]:
    made = request.param(tmp_path)
    yield made
    made.close()


def test_what_was_delivered_has_arrived_once_and_in_order(far: Far) -> None:
    sink = far.open()
    for notice in NOTICES:
        sink.deliver(notice)
    eventually(lambda: len(far.taken()) >= len(NOTICES))
    assert far.taken() == NOTICES
    sink.close()


def test_a_receiver_that_is_down_is_an_error_that_names_it_and_the_sink_works_when_it_is_back(
    far: Far,
) -> None:
    sink = far.open()
    sink.deliver(NOTICES[0])
    far.go_down()
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            sink.deliver(NOTICES[1])
        assert far.name in str(caught.value)
        assert "secret" not in str(caught.value)
    far.come_back()
    sink.deliver(NOTICES[2])
    eventually(lambda: NOTICES[2] in far.taken())
    assert far.taken()[0] == NOTICES[0]
    sink.close()


def test_closing_twice_is_closing_once(far: Far) -> None:
    sink = far.open()
    sink.close()
    sink.deliver(NOTICES[0])
    sink.close()
    sink.close()


def test_a_webhook_names_each_notice_and_its_user(tmp_path: Path) -> None:
    far = Webhook(tmp_path)
    try:
        far.open().deliver(NOTICES[3])
        (headers,) = far.headers
        assert headers["Content-Type"] == "application/json"
        assert headers["Idempotency-Key"] == f"{3:016x}-incident_started"
        assert headers["Authorization"] == "Basic dXNAZXI6c2VjcmV0"
    finally:
        far.close()


@pytest.mark.parametrize("code", [301, 400, 404, 500, 503])
def test_a_webhook_that_does_not_accept_is_an_error_with_its_answer(tmp_path: Path, code: int) -> None:
    far = Webhook(tmp_path)
    far.code = code
    try:
        with pytest.raises(OSError, match=f"answered {code}"):
            far.open().deliver(NOTICES[0])
    finally:
        far.close()


def test_a_webhook_that_says_nothing_is_given_up_after_its_time() -> None:
    from client.connectors.sinks.webhook import WebhookSink

    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = WebhookSink(f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout_s=0.2)
        with pytest.raises(OSError, match="timed out"):
            sink.deliver(NOTICES[0])


def test_a_file_is_rotated_when_it_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = FileSink(path, max_bytes=3 * len(NOTICES[0]), keep=2)
    for notice in NOTICES:
        sink.deliver(notice)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.jsonl.1", "a.jsonl.2"]
    assert (tmp_path / "a.jsonl.2").read_bytes().splitlines() == NOTICES[3:6]
    assert (tmp_path / "a.jsonl.1").read_bytes().splitlines() == NOTICES[6:9]
    sink.deliver(NOTICES[0])
    assert path.read_bytes().splitlines() == NOTICES[:1]


def test_a_line_that_a_crash_cut_off_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(NOTICES[0] + b"\n" + NOTICES[1][:9])
    FileSink(path).deliver(NOTICES[2])
    assert path.read_bytes().splitlines() == [NOTICES[0], NOTICES[1][:9], NOTICES[2]]


def test_an_mqtt_broker_that_refuses_is_an_error_that_names_the_refusal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x20\x02\x00\x05")  # CONNACK: not authorised

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(OSError, match=r"broker 127.0.0.1.*Not authorized"):
            open_sink(f"mqtt://127.0.0.1:{port}/t").deliver(NOTICES[0])
        thread.join(PATIENCE_S)
