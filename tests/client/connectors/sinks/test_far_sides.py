"""Every sink against a real other side that goes away and comes back, with and without TLS and passwords."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from client.connectors.sinks import Sink, open_sink
from client.connectors.sinks.stdout import StdoutSink
from tests.waiting import eventually

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
PASSWORD = "geheim"
NOTICES = [
    b'{"id":"1","kind":"incident_started"}',
    '{"text":"ä ☃"}'.encode(),
    b'{"text":"two\\nlines"}',
    b'{"text":"' + b"x" * 200_000 + b'"}',
    b"{}",
]


class Far(Protocol):
    """The other side of a sink."""

    sink: Sink
    name: str
    """Its address, as the sink names it."""

    def up(self) -> None: ...
    def down(self) -> None: ...
    def arrived(self) -> list[bytes]: ...


class FarFile:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "made" / "alerts.jsonl"
        self.sink, self.name = open_sink(f"file:{self._path}"), f"file {self._path}"

    def up(self) -> None:
        if self._path.is_dir():
            self._path.rmdir()
            self._path.with_name("aside").rename(self._path)

    def down(self) -> None:
        if not self._path.is_dir():
            self._path.parent.mkdir(exist_ok=True)
            self._path.touch()
            self._path.rename(self._path.with_name("aside"))
            self._path.mkdir()

    def arrived(self) -> list[bytes]:
        return self._path.read_bytes().splitlines()


class FarPipe:
    """Standard output is read by a program that may end, and be followed by another."""

    name = "stdout"

    def __init__(self, folder: Path) -> None:
        self._out = folder / "out"
        self._fd = os.open(os.devnull, os.O_WRONLY)
        self.sink: Sink = StdoutSink(self._fd)
        self._reader: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        end, start = os.pipe()
        os.dup2(start, self._fd, inheritable=False)
        with self._out.open("ab") as out:
            self._reader = subprocess.Popen(["cat"], stdin=end, stdout=out)
        os.close(end)
        os.close(start)

    def down(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader.wait()

    def arrived(self) -> list[bytes]:
        return self._out.read_bytes().splitlines()


class FarServer:
    """A web server that wants a password, with TLS or without."""

    def __init__(self, port: int, certificate: Path | None) -> None:
        scheme = "https" if certificate else "http"
        self._port, self._certificate = port, certificate
        self.sink = open_sink(f"{scheme}://edge:{PASSWORD}@127.0.0.1:{port}/hook?a=b")
        self.name = f"webhook {scheme}://127.0.0.1:{port}/hook"
        self._bodies: list[bytes] = []
        self._server: ThreadingHTTPServer | None = None

    def up(self) -> None:
        bodies = self._bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                expected = "Basic " + base64.b64encode(f"edge:{PASSWORD}".encode()).decode()
                known = self.headers["Authorization"] == expected and self.path == "/hook?a=b"
                if known:
                    bodies.append(body)
                self.send_response(204 if known else 401)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def arrived(self) -> list[bytes]:
        return self._bodies


class FarBroker:
    """A mosquitto, and a subscriber of it; with TLS it wants a password, too."""

    def __init__(self, folder: Path, port: int, certificate: Path | None) -> None:
        self._folder, self._port, self._certificate = folder, port, certificate
        place = f"127.0.0.1:{port}/plant/alerts"
        self.sink = open_sink(
            f"mqtts://edge:{PASSWORD}@{place}?ca={certificate}" if certificate else f"mqtt://{place}"
        )
        self.name = f"broker 127.0.0.1:{port}"
        self._bodies: list[bytes] = []
        self._broker: subprocess.Popen[bytes] | None = None
        config = f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\n"
        if certificate:
            salt = b"twelve bytes"
            hashed = hashlib.sha512(PASSWORD.encode() + salt).digest()
            pair = "$".join(("edge:", "6", *(base64.b64encode(part).decode() for part in (salt, hashed))))
            (folder / "passwords").write_text(pair + "\n")
            config += f"password_file {folder / 'passwords'}\ncertfile {certificate}\nkeyfile {certificate}\n"
        else:
            config += "allow_anonymous true\n"
        (folder / "mosquitto.conf").write_text(config)

    def up(self) -> None:
        assert MOSQUITTO is not None
        with (self._folder / "mosquitto.log").open("ab") as log:
            command = [MOSQUITTO, "-c", str(self._folder / "mosquitto.conf")]
            self._broker = subprocess.Popen(command, stdout=log, stderr=log)
        self._listener = Client(CallbackAPIVersion.VERSION2)
        if self._certificate:
            self._listener.username_pw_set("edge", PASSWORD)
            self._listener.tls_set(str(self._certificate))
        subscribed = threading.Event()
        self._listener.on_message = lambda _client, _data, message: self._bodies.append(message.payload)
        self._listener.on_connect = lambda client, *_: client.subscribe("plant/alerts", qos=1)
        self._listener.on_subscribe = lambda *_: subscribed.set()
        assert eventually(self._reached), (self._folder / "mosquitto.log").read_text()
        self._listener.loop_start()
        assert subscribed.wait(20)

    def _reached(self) -> bool:
        try:
            self._listener.connect("127.0.0.1", self._port)
        except OSError:
            return False
        return True

    def down(self) -> None:
        if self._broker is not None:
            self._listener.disconnect()
            self._listener.loop_stop()
            self._broker.terminate()
            self._broker.wait()
            self._broker = None

    def arrived(self) -> list[bytes]:
        return self._bodies


def certificate_in(folder: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = folder / "server.pem"
    options = "-x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", "req", *options.split(), *files], check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "cert.pem").read_text())
    return path


@pytest.fixture(params=["file", "stdout", "http", "https", "mqtt", "mqtts"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    kind: str = request.param
    if kind.startswith("mqtt") and MOSQUITTO is None:
        pytest.skip("there is no mosquitto on this machine")
    certificate = certificate_in(tmp_path) if kind in ("https", "mqtts") else None
    with socket.socket() as holder:  # bound, never listening: nobody else gets the port while we are down
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        result: Far
        if kind == "file":
            result = FarFile(tmp_path)
        elif kind == "stdout":
            result = FarPipe(tmp_path)
        elif kind.startswith("http"):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate or ""))
            result = FarServer(port, certificate)
        else:
            result = FarBroker(tmp_path, port, certificate)
        try:
            result.up()
            yield result
        finally:
            result.sink.close()
            result.down()


def test_notices_arrive_whole_and_once_and_in_order(far: Far) -> None:
    for notice in NOTICES:
        far.sink.deliver(notice)
    assert eventually(lambda: len(far.arrived()) >= len(NOTICES))
    assert far.arrived() == NOTICES


def test_a_notice_that_is_not_accepted_is_an_error_that_names_the_sink_and_no_password(far: Far) -> None:
    far.down()
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            far.sink.deliver(NOTICES[0])
        assert far.name in str(caught.value)
        assert len(str(caught.value)) > len(far.name) + 5
        assert PASSWORD not in str(caught.value)


def test_the_same_sink_delivers_when_the_other_side_is_back(far: Far) -> None:
    far.sink.deliver(NOTICES[0])
    assert eventually(lambda: len(far.arrived()) == 1)
    far.down()
    with pytest.raises(OSError):
        far.sink.deliver(NOTICES[1])
    far.up()
    far.sink.deliver(NOTICES[2])
    assert eventually(lambda: len(far.arrived()) >= 2)
    assert far.arrived() == [NOTICES[0], NOTICES[2]]


def test_an_outage_between_two_notices_costs_one_attempt_at_most(far: Far) -> None:
    far.sink.deliver(NOTICES[0])
    assert eventually(lambda: len(far.arrived()) == 1)
    far.down()
    far.up()
    try:
        far.sink.deliver(NOTICES[1])
    except OSError:
        far.sink.deliver(NOTICES[1])
    assert eventually(lambda: NOTICES[1] in far.arrived())


def test_closing_twice_is_closing_once(far: Far) -> None:
    far.sink.deliver(NOTICES[0])
    far.sink.close()
    far.sink.close()


def test_a_sink_that_was_never_used_can_be_closed(far: Far) -> None:
    far.sink.close()


def test_nothing_is_left_running_after_failures(far: Far) -> None:
    far.down()
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(OSError):
            far.sink.deliver(NOTICES[0])
    assert eventually(lambda: threading.active_count() <= before)
