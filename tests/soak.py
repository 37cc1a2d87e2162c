"""`make soak`: fuzzed messages, chaos and connections, for an hour or `--minutes`, with growth bounds.

Each cycle runs every part once. Memory and descriptors of this process, and descriptors of the server's
processes, must not have grown beyond their bounds since the first cycle.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.flower.stamps import TASK
from common.processes.children import Processes, raise_open_files
from server.monitoring.status import ServerStatus
from server.monitoring.status_server import StatusServer
from server.storage.history import History
from tests.chaos import test_damaged_state as damaged_state
from tests.chaos.fleet import Chaos
from tests.fuzz import client, federation

MESSAGES, STATES, STEPS, CONNECTIONS = 1000, 10, 20, 1000
"""Mutated messages to each side, damaged states, steps of chaos, and connections in a cycle."""
MAX_GROWN_BYTES, MAX_GROWN_DESCRIPTORS = 150 << 20, 24


def fuzz(folder: Path, seed: int) -> str:
    """Send mutated messages."""
    mode = ("synchronous", "asynchronous")[seed % 2]
    sent = federation.run(folder, MESSAGES, seed, mode)
    return f"{sent.total()} messages, {mode}: {dict(sent)}"


def tasks(folder: Path, seed: int) -> str:
    """Send mutated messages to a client."""
    answers = client.run(folder, MESSAGES, seed)
    return f"{MESSAGES} messages: {dict(answers)}"


def damage(folder: Path, seed: int) -> str:
    """Start a server and a client from damaged states."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TASK.items():
            patch.setattr(TaskIdentity, name, value, raising=False)
        for part in ("server", "client"):
            (folder / part).mkdir()
        damaged_state.check_server(folder / "server", range(seed * STATES, (seed + 1) * STATES))
        damaged_state.check_client(folder / "client", range(seed * STATES, (seed + 1) * STATES))
    return f"{2 * STATES} states"


def chaos(folder: Path, seed: int) -> str:
    """Kill, pause and damage a fleet of real processes."""
    with Processes() as processes:
        fleet = Chaos(folder, processes, seed)
        first = fleet.descriptors()
        for _ in range(STEPS):
            print("   ", fleet.step(), f"version={fleet.newest}", flush=True)
        grown = fleet.descriptors() - first
        assert grown <= MAX_GROWN_DESCRIPTORS, f"the server's descriptors have grown by {grown}"
    return f"{STEPS} steps"


def connections(folder: Path, _: int) -> str:
    """Open idle, slow and oversized connections to a status page, which goes on answering."""
    with closing(History(folder / "history.sqlite")) as history:
        server = StatusServer("127.0.0.1:0", ServerStatus(folder, lambda: True), history)
        opened: list[socket.socket] = []
        try:
            for number in range(CONNECTIONS):
                opened.append(socket.create_connection(("127.0.0.1", server.port), 10))
                if number % 3 == 1:
                    opened[-1].sendall(b"GET /healthz HTTP/1.1\r\nx: ")
                elif number % 3 == 2:
                    opened[-1].sendall(
                        b"POST /alerts HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 999
                    )
                if number % 100 == 0:
                    url = f"http://127.0.0.1:{server.port}/healthz"
                    with urllib.request.urlopen(url, timeout=30) as answer:
                        assert json.loads(answer.read())["status"]
        finally:
            for connection in opened:
                connection.close()
            server.close()
    return f"{CONNECTIONS} connections"


PARTS: tuple[Callable[[Path, int], str], ...] = (fuzz, tasks, damage, connections, chaos)


def main() -> None:
    """Run cycles until the time is over; end with code 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long; each part runs once at least")
    parser.add_argument("--seed", type=int, default=0, help="of the first cycle")
    parser.add_argument("--parts", nargs="*", default=[p.__name__ for p in PARTS], help="which parts run")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    raise_open_files()
    this, first = psutil.Process(os.getpid()), None
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    while True:
        for part in PARTS:
            if part.__name__ not in options.parts:
                continue
            with tempfile.TemporaryDirectory() as folder:
                started = time.monotonic()
                done = part(Path(folder), seed)
                print(
                    f"cycle={seed} part={part.__name__} done: {done}, {time.monotonic() - started:.0f} s",
                    flush=True,
                )
        gc.collect()
        now = (this.memory_info().rss, this.num_fds())
        first = first or now
        print(f"cycle={seed} memory_mb={now[0] >> 20} descriptors={now[1]}", flush=True)
        if now[0] - first[0] > MAX_GROWN_BYTES or now[1] - first[1] > MAX_GROWN_DESCRIPTORS:
            sys.exit(f"memory or descriptors have grown: from {first} to {now}")
        seed += 1
        if time.monotonic() > end:
            return


if __name__ == "__main__":
    main()
