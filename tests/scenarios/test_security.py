"""Clients that a real server over TLS lets in, and requests that it refuses; most tests share one."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from msgspec.structs import asdict

from client.app import build
from client.transport.compression_state import CompressionState
from client.transport.errors import AccessDeniedError, RunEndedError, UnreachableError
from client.transport.fleet_connection import FleetConnection
from common.flower import packing
from common.model.histogram import ScoreHistogram
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.processes.children import Processes
from common.processes.packages import python_module
from common.protocol import wire
from common.protocol.messages import Description, Evaluation, Task, Update
from common.security.keys import public_key_pem
from flockwatch.certs import Certificates
from server.flower.superlink_process import flower_environment
from tests.scenarios.fleet import Federation
from tests.scenarios.link import SERVER_SIDE, Network
from tests.scenarios.secured import Secured
from tests.waiting import PATIENCE_S, eventually

STREAM = {
    "federation.mode": "asynchronous",
    "federation.buffer": "1",
    "federation.min_clients": "1",
    "federation.max_rounds": "1000000",
    "gate.norm_limit": "null",
}
PASSWORD = "correct-horse-battery"
PROTOBUF = {"content-type": "application/protobuf"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A running server with one registered client, `a`, that has trained."""
    with Processes() as processes:
        made = Secured(tmp_path_factory.mktemp("secured"), processes, STREAM)
        made.enroll("a")
        made.start_server()
        made.start_client(made.rows("a"))
        eventually(lambda: made.version() >= 1)
        yield made


class Edge:
    """Answers as an edge does, with updates that change nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.compression = name, CompressionState()
        self._rows = np.ones((100, 3), np.float32)
        self._errors = self._rows.mean(axis=1)

    def describe(self, window: int | None = None) -> Description:
        schema, moments = Schema(("f0", "f1", "f2")), Moments.of(self._rows)
        return Description(self.name, self.name, schema, moments, True, False, self.compression.codecs, "")

    def evaluate(self, task: Task) -> Evaluation:
        error, scores = ErrorSummary.of(self._errors), ScoreHistogram.of(self._errors)
        return Evaluation(self.name, task.manifest.version, 100, error, scores, False)

    def train(self, task: Task) -> Update:
        nothing = {n: np.zeros(shape, np.float32) for n, shape in task.manifest.architecture.shapes.items()}
        return Update(**asdict(self.evaluate(task)), loss=0.1, train_s=0.001, difference=nothing)


class Node:
    """A client in this program: its messages are answered one by one, as the test says."""

    def __init__(self, run: Secured, name: str, ahead_s: float = 0.0) -> None:
        roots = (run.certs / "ca.pem").read_bytes()
        self.connection = FleetConnection(
            run.address, roots, run.private_key(name), clock=lambda: time.time() + ahead_s
        )

    def __enter__(self) -> Node:
        self.connection.open()
        self._done = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._beating.join()
        self.connection.close()

    def _beat(self) -> None:
        while not self._done.wait(1.0):
            with suppress(UnreachableError):
                self.connection.heartbeat()

    def next(self, edge: Edge) -> Message:
        """The reply to the next message, not sent yet."""
        received = eventually(self.connection.receive)
        context = Context(1, self.connection.node_id, {}, RecordDict(), {})
        return build(lambda _: edge)(received[0], context)  # type: ignore[arg-type,return-value]

    def send(self, reply: Message) -> None:
        self.connection.send(reply, True, 0.0)


def admitted(run: Federation, name: str) -> int:
    return int(run.clients().get(name, {}).get("admitted", 0))


def serverapp_log(run: Federation) -> str:
    return (run.state / "run.log").read_text()


def superlink_port(run: Federation) -> int:
    return int(re.findall(r"superlink ready address=127.0.0.1:(\d+)", run.log("server"))[-1])


def test_a_registered_client_learns_and_superlink_listens_to_this_machine_alone(run: Secured) -> None:
    before = admitted(run, "a")
    eventually(lambda: admitted(run, "a") > before)
    server = psutil.Process(run.processes.pid("server"))
    heard = {
        (c.laddr.ip, c.laddr.port)
        for process in [server, *server.children(recursive=True)]
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", run.port) in heard
    assert ("127.0.0.1", superlink_port(run)) in heard
    assert {ip for ip, _ in heard} == {"127.0.0.1"}


def test_a_client_comes_in_once_it_is_registered_and_is_out_once_it_is_revoked(run: Secured) -> None:
    public = run.key("c")
    run.start_client(run.rows("c"))
    eventually(lambda: re.search(r"the key SHA256:\S+ is not registered: flockwatch enroll", run.log("c")))
    eventually(lambda: re.search(r"refused peer=127.0.0.1 .* is not registered", run.log("server")))
    assert admitted(run, "c") == 0
    assert "enrolled c" in run.run_command("enroll", "c", str(public))
    eventually(lambda: admitted(run, "c") > 1)
    assert "revoked key" in run.run_command("revoke", "c")
    eventually(lambda: re.search(r"of 'c' was revoked on 20", run.log("c")))
    eventually(lambda: re.search(r"refused peer=127.0.0.1 client=c .* was revoked on", run.log("server")))
    eventually(lambda: run.clients()["c"]["state"] == "gone")
    counted, others = admitted(run, "c"), admitted(run, "a")
    eventually(lambda: admitted(run, "a") > others + 2)
    assert admitted(run, "c") == counted
    assert run.processes.exit_code("c") is None  # its detector would go on, too
    anew = FleetConnection(run.address, (run.certs / "ca.pem").read_bytes(), run.private_key("c"))
    with pytest.raises(AccessDeniedError, match="was revoked on"):
        anew.open()
    anew.close()
    run.processes.end(["c"])


def test_without_a_key_no_client_connects(run: Secured) -> None:
    answer = asked(run, "/v1/fleet/pull-messages")
    assert (answer.status_code, "has no client key" in answer.json()["detail"]) == (403, True)
    done = flockwatch(
        "client", "--data", str(run.rows("nokey")), "--server", run.address, "--ca", str(run.certs / "ca.pem")
    )
    assert done.returncode == 2
    assert "'tls_ca' and 'key' must be set together" in done.stderr


def test_wrong_ca_and_plain_http_are_named_on_both_sides(run: Secured) -> None:
    list(Certificates(run.folder / "other").make([], []))
    run.enroll("strayed")
    run.flags["strayed"] += ["--ca", str(run.folder / "other" / "ca.pem")]
    run.start_client(run.rows("strayed"))
    run.start_client(run.rows("plain"))
    eventually(lambda: "from another CA than client.tls_ca" in run.log("strayed"))
    eventually(lambda: "the client does not trust the CA" in run.log("server"))
    eventually(lambda: "set client.tls_ca and client.key" in run.log("plain"))
    eventually(lambda: "the client uses plain HTTP" in run.log("server"))
    run.processes.end(["strayed", "plain"])
    assert run.clients()["strayed"]["state"] == "enrolled", "it never got in"
    assert "plain" not in run.clients()


@pytest.mark.parametrize("call", ["list-nodes", "register-node", "start-run"])
def test_not_even_a_registered_client_reaches_the_control_api(run: Secured, call: str) -> None:
    path = f"/v1/control/{call}"
    key = public_key_pem(run.private_key("a").public_key())
    answer = asked(run, path, {"flwr-public-key": b64encode(key).decode()})
    assert answer.status_code == 403
    assert "clients may only use the Fleet API" in answer.json()["detail"]
    # It is there, on the operator's side, and asks for no credentials: this is why.
    inside = httpx.post(f"http://127.0.0.1:{superlink_port(run)}{path}", headers=PROTOBUF, timeout=PATIENCE_S)
    assert inside.status_code not in (401, 403, 404)


def test_an_update_that_comes_twice_counts_once_whoever_sends_it(run: Secured) -> None:
    run.enroll("r")
    run.enroll("thief")
    edge, sent = Edge("r"), 0
    with Node(run, "r") as node, Node(run, "thief") as thief:
        while sent < 3:
            reply = node.next(edge)
            node.send(reply)
            if reply.metadata.message_type == MessageType.TRAIN:
                sent += 1
                node.send(reply)
                with pytest.raises(RunEndedError):  # 403: it is not the thief's
                    thief.send(reply)  # as heard on the wire, had it been in the clear
                eventually(lambda wanted=sent: admitted(run, "r") >= wanted)
                node.send(reply)  # and once more, now that it is part of a version
                with pytest.raises(RunEndedError):
                    thief.send(reply)
        others = admitted(run, "a")
        eventually(lambda: admitted(run, "a") > others + 2)
    assert admitted(run, "r") == sent
    assert sum(reply["client"] == "r" for r in run.rounds() for reply in r["replies"]) == sent
    assert admitted(run, "thief") == 0


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0, 1e9, -1.5e9])
def test_a_client_takes_part_whatever_its_clock_says(
    run: Secured, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    name = f"clock{ahead_s:+.0f}"
    run.enroll(name)
    edge = Edge(name)
    with Node(run, name, ahead_s) as node:
        while admitted(run, name) < 2:
            with monkeypatch.context() as patch:  # as Flower stamps a reply on such a machine
                wrong = datetime.now(UTC) + timedelta(seconds=ahead_s)
                patch.setattr("flwr.app.message.message.now", lambda wrong=wrong: wrong)
                reply = node.next(edge)
            node.send(reply)  # an update that the fleet has overtaken by many versions is dropped: then again


def test_a_client_has_the_name_that_its_key_is_registered_for(run: Secured) -> None:
    run.enroll("honest")
    with Node(run, "honest") as node:
        node.send(node.next(Edge("a")))
        reason = "it calls itself 'a', but its key is registered for 'honest'"
        eventually(lambda: ("refused", reason) in run.notes())
    others = admitted(run, "a")
    eventually(lambda: admitted(run, "a") > others)


def test_an_update_in_anothers_name_is_not_used(run: Secured) -> None:
    run.enroll("byzantine")
    edge = Edge("byzantine")
    with Node(run, "byzantine") as node:
        while (reply := node.next(edge)).metadata.message_type != MessageType.TRAIN:
            node.send(reply)
            edge = Edge("byzantine")
            edge.evaluate = lambda task: Edge("a").evaluate(task)  # type: ignore[method-assign]
        node.send(reply)
        eventually(lambda: any("it is signed 'a'" in text for _, text in run.notes()))
    assert admitted(run, "byzantine") == 0


def test_a_registered_client_cannot_send_a_task_to_another(run: Secured) -> None:
    """It knows the other's node, which the status page shows, and writes as if it was the server."""
    run.enroll("forger")
    victim = int(eventually(lambda: run.clients()["a"]["node"]))
    with Node(run, "forger") as node:
        asked, _ = eventually(node.connection.receive)
        proto, tree = packing.inline(Message(asked.content, reply_to=asked))
        proto.metadata.src_node_id, proto.metadata.dst_node_id = SUPERLINK_NODE_ID, victim
        proto.metadata.reply_to_message_id, proto.metadata.message_type = "", MessageType.TRAIN
        pushed = PushMessagesRequest(
            node=node.connection._node, messages_list=[proto], message_object_trees=[tree]
        )
        with pytest.raises(httpx.HTTPStatusError) as caught:
            node.connection._client.PushMessages(pushed)
    assert caught.value.response.status_code == 403


def test_both_sides_report_that_the_client_is_newer(run: Secured) -> None:
    run.enroll("newer")
    ours, theirs = wire.PROTOCOL, wire.PROTOCOL + 1
    newer = (
        f"from common.protocol import wire; wire.PROTOCOL = {theirs}; from flockwatch.cli import main; main()"
    )
    command = [
        sys.executable, "-c", newer, "client", "--data", str(run.rows("newer")), "--server", run.address,
        "--state", str(run.folder / "newer"), *run.flags["newer"],
    ]  # fmt: skip
    environment = flower_environment(run.folder / "newer-flower")
    run.processes.start("newer", command, run.folder / "newer.log", environment)
    words = f"Describe of protocol {ours}, but this program speaks {theirs}: upgrade the older side"
    eventually(lambda: words in run.log("newer"))
    eventually(lambda: words in serverapp_log(run))
    run.processes.end(["newer"])
    assert run.clients()["newer"]["state"] == "enrolled", "it never took part"


def test_an_answer_of_a_newer_protocol_is_named_by_the_server(
    run: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.enroll("future")

    class Future(Edge):
        def describe(self, window: int | None = None) -> Description:
            monkeypatch.setattr(wire, "PROTOCOL", wire.PROTOCOL + 1)  # from here on, what it packs
            return super().describe()

    with Node(run, "future") as node:
        reply = node.next(Future("future"))
        monkeypatch.undo()
        node.send(reply)
        words = f"Description of protocol {wire.PROTOCOL + 1}, but this program speaks {wire.PROTOCOL}"
        eventually(lambda: words in serverapp_log(run))


def test_no_secret_is_in_any_log(run: Secured) -> None:
    addresses = {
        "--source": f"mqtt://user:{PASSWORD}@127.0.0.1:9/x",
        "--sink": f"https://u:{PASSWORD}@127.0.0.1:9/h",
    }
    run.enroll("live")
    run.flags["live"] += [word for item in addresses.items() for word in item] + ["--verbose"]
    run.start_client(run.rows("live"))
    eventually(lambda: (run.folder / "live" / "trainer.log").exists() and run.log("live"))
    eventually(lambda: "client ready" in (run.folder / "live" / "trainer.log").read_text())
    run.processes.end(["live"])
    keys = [path for path in run.folder.rglob("*.key") if path.is_file()]
    secrets = {line for path in keys for line in path.read_text().splitlines() if "-----" not in line}
    logs = list(run.folder.rglob("*.log"))
    assert len(secrets) > 20
    assert len(logs) >= 4
    # The first line of OpenSSH's form is the same for all keys of a curve.
    secrets -= {line for line in secrets if line.startswith("b3BlbnNzaC1rZXktdjE")}
    for log in logs:
        text = log.read_text(errors="replace")
        assert PASSWORD not in text, log
        assert "PRIVATE KEY" not in text, log
        assert not [line for line in secrets if line in text], log


# Servers of their own.


def test_a_server_does_not_start_with_a_certificate_that_expired(tmp_path: Path) -> None:
    list(Certificates(tmp_path).make([], [], days=-1))
    done = flockwatch(
        "server", "--state", str(tmp_path / "server"), "--certificate", str(tmp_path / "server.pem"),
        "--key", str(tmp_path / "server.key"),
    )  # fmt: skip
    assert done.returncode == 2
    assert re.search(r"flockwatch: \S+server.pem: expired on 20", done.stderr)


def test_a_server_does_not_listen_to_other_machines_without_tls(tmp_path: Path) -> None:
    done = flockwatch("server", "--state", str(tmp_path / "server"), "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "TLS is off: set server.tls_certificate and server.tls_key" in done.stderr


def test_from_an_edges_network_only_the_fleet_api_is_reached(secured, network: Network) -> None:
    run: Secured = secured(STREAM | {"server.host": "0.0.0.0"}, hosts=(SERVER_SIDE,))
    run.command_prefixes["server"] = network.command_prefix(network.server)
    run.start_server()
    eventually(lambda: "superlink ready" in run.log("server"))
    asked = f"""
import socket, ssl, sys
from http.client import HTTPSConnection
context = ssl.create_default_context(cafile={str(run.certs / "ca.pem")!r})
for path in ("/v1/control/list-nodes", "/v1/runtime/pull-messages", "/health", "/v1/fleet/pull-messages"):
    link = HTTPSConnection({SERVER_SIDE!r}, {run.port}, context=context, timeout={PATIENCE_S})
    link.request("POST", path, b"", {PROTOBUF!r})
    answer = link.getresponse()
    print(path, answer.status, answer.read().decode())
try:
    socket.create_connection(({SERVER_SIDE!r}, {superlink_port(run)}), {PATIENCE_S})
except OSError as error:
    print("superlink", error)
"""
    command = [*network.command_prefix(network.client_side), sys.executable, "-c", asked]
    replies = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    ).stdout.splitlines()
    assert len(replies) == 5
    assert all("403" in line and "clients may only use the Fleet API" in line for line in replies[:3])
    assert "403" in replies[3]
    assert "has no client key" in replies[3]
    assert "Connection refused" in replies[4]


def asked(run: Secured, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """The server's answer to a request that only a client's machine could make."""
    context = ssl.create_default_context(cafile=str(run.certs / "ca.pem"))
    return httpx.post(
        f"https://{run.address}{path}", headers=PROTOBUF | (headers or {}), verify=context, timeout=PATIENCE_S
    )


def flockwatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*python_module("flockwatch"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
