"""A server with the usual limit of open files goes on under more idle connections than it may open."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack

from client.transport.fleet_connection import FleetConnection
from common.processes.children import raise_open_files
from server.flower.superlink_process import free_port
from tests.scenarios.secured import Secured
from tests.waiting import PATIENCE_S, eventually

LIMITED = ["sh", "-c", 'ulimit -n 1024; exec "$@"', "limited"]
STRANGERS = 1200


def test_idle_connections_of_strangers_neither_end_the_server_nor_keep_a_client_out(
    secured: Callable[..., Secured],
) -> None:
    raise_open_files()
    run, status = secured(), free_port()
    run.command_prefixes["server"] = LIMITED
    run.flags["server"] = ["--status", f"127.0.0.1:{status}"]
    run.enroll("a")
    run.start_server()
    eventually(lambda: "superlink ready" in run.log("server"))
    with ExitStack() as opened:
        for _ in range(STRANGERS):
            opened.enter_context(socket.create_connection(("127.0.0.1", run.port), PATIENCE_S))
        connection = FleetConnection(run.address, (run.certs / "ca.pem").read_bytes(), run.private_key("a"))
        connection.open()
        connection.heartbeat()
        with urllib.request.urlopen(f"http://127.0.0.1:{status}/healthz", timeout=PATIENCE_S) as answer:
            assert json.loads(answer.read())["superlink"] == "up"
        connection.close()
    assert run.processes.exit_code("server") is None
