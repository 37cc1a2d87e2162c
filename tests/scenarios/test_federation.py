"""A whole federation over real processes: it learns, writes its versions, and ends cleanly."""

from __future__ import annotations

import re
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import zstandard

from client.data.files.partitions import read_partition
from common.compression.zstd import MAGIC
from common.processes.children import MARKS
from common.settings import DataSettings
from tests.scenarios.fleet import Federation
from tests.waiting import eventually


class Recorder:
    """A TCP relay to the server that keeps every byte of both directions."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._heard: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def heard(self) -> bytes:
        return b"".join(self._heard)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        # One list a direction and connection, joined at its end: a value may be cut between two chunks.
        heard = bytearray()
        try:
            while chunk := source.recv(65536):
                heard += chunk
                sink.sendall(chunk)
        except OSError:
            pass
        finally:
            self._heard.append(bytes(heard))
            for one in (source, sink):
                one.close()


def opened(heard: bytes) -> bytes:
    """Return the content of compressed messages."""
    result = []
    for start in (match.start() for match in re.finditer(re.escape(MAGIC), heard)):
        with suppress(zstandard.ZstdError):
            result.append(zstandard.ZstdDecompressor().decompressobj().decompress(heard[start:]))
    assert len(result) > 10
    return b"".join(result)


def forms(row: np.ndarray) -> list[bytes]:
    """Forms in which a row of values could stand in a message: as floats of either width, or as text."""
    return [row.astype("<f4").tobytes(), row.astype("<f8").tobytes(), ",".join(map(str, row)).encode()]


def test_two_clients_learn_and_no_row_or_label_leaves_them(federation) -> None:
    run: Federation = federation()
    recorder = Recorder(run.port)
    files = [run.rows(name, seed=i) for i, name in enumerate(("a", "b"))]
    run.start_server()
    for file in files:
        run.start_client(file, server=f"127.0.0.1:{recorder.port}")
    run.finish()
    run.processes.end(["a", "b"])
    recorder.close()

    newest = run.newest()
    assert newest is not None
    assert newest.version == 5
    rounds = run.rounds()
    assert [(r["kind"], r["version"], r["answered"]) for r in rounds] == [
        *(("train", v, 2) for v in range(1, 6)), ("evaluate", 5, 2),
    ]  # fmt: skip
    assert rounds[-1]["error"] < rounds[0]["error"]
    assert {reply["client"] for reply in rounds[0]["replies"]} == {"a", "b"}

    heard = recorder.heard
    heard += opened(heard)
    # The relay hears what is said: the final weights went to the clients to be measured.
    assert newest.weights["dense_0/kernel"].tobytes() in heard
    for file in files:
        partition = read_partition(file, DataSettings())
        for row in [*partition.rows, *partition.test_rows]:
            assert not any(form in heard for form in forms(row))
        assert partition.test_labels is not None
        assert partition.test_labels.tobytes() not in heard


def test_the_server_ends_everything_it_started_on_sigterm(federation) -> None:
    run: Federation = federation({"federation.max_rounds": "100000"})
    run.start_server()
    for name in ("a", "b"):
        run.start_client(run.rows(name))
    eventually(lambda: run.version() >= 2)
    family = [p for p in psutil.process_iter() if marked(p, run, "server")]
    assert len(family) >= 4  # the server, SuperLink, its SuperExec, the ServerApp
    psutil.Process(run.processes.pid("server")).send_signal(signal.SIGTERM)
    eventually(lambda: run.processes.exit_code("server") is not None)
    assert run.processes.exit_code("server") == 0
    assert not [p for p in family if runs(p)]


def test_a_client_ends_with_code_0_on_sigterm_and_signs_off(federation) -> None:
    run: Federation = federation({"federation.max_rounds": "100000"})
    run.start_server()
    for name in ("a", "b", "c"):
        run.start_client(run.rows(name))
    eventually(lambda: run.clients().get("c", {}).get("admitted"))
    psutil.Process(run.processes.pid("c")).send_signal(signal.SIGTERM)
    eventually(lambda: run.processes.exit_code("c") is not None)
    assert run.processes.exit_code("c") == 0
    # Signed off, so that no later round waits for it.
    version = run.version()
    eventually(lambda: run.version() >= version + 5)
    assert run.rounds()[-1]["sampled"] == 2


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # since it was asked
        return False


def marked(process: psutil.Process, run: Federation, name: str) -> bool:
    try:
        return run.processes._mark(name) in process.environ().get(MARKS, "").split()
    except psutil.Error:
        return False


@pytest.mark.e2e
def test_state_of_a_finished_run_is_gone_on_with_by_the_next(federation, tmp_path: Path) -> None:
    run: Federation = federation()
    files = [run.rows(name, seed=i) for i, name in enumerate(("a", "b"))]
    for file in files:
        run.start_client(file)
    # Clients that come before their server wait for it, and say so.
    eventually(lambda: "waiting for the server" in run.log("a"))
    run.start_server()
    run.finish()
    first = run.newest()
    run.processes.end(["server"])

    longer = Federation(tmp_path, run.processes, {"federation.max_rounds": "8"})
    longer.port, longer.address = run.port, run.address
    longer.start_server()
    longer.finish()
    newest = longer.newest()
    assert first is not None
    assert newest is not None
    assert (first.version, newest.version) == (5, 8)
    versions = [r["version"] for r in longer.rounds() if r["kind"] == "train"]
    assert versions == list(range(1, 9))


def test_a_port_in_use_is_reported_before_anything_starts(federation) -> None:
    run: Federation = federation()
    with socket.create_server(("127.0.0.1", run.port)):
        run.start_server()
        eventually(lambda: run.processes.exit_code("server") is not None)
    assert run.processes.exit_code("server") == 1
    assert f"cannot listen on 127.0.0.1:{run.port}: Address already in use" in run.log("server")
