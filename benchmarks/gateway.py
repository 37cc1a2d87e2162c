"""`make bench-gateway`: a client's requests straight to SuperLink, and through the gateway with TLS."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks.results import publish
from client.transport.fleet_connection import FleetConnection
from common.security.keys import new_private
from flockwatch.certs import Certificates
from server.access.gateway import Gateway
from server.access.listener import Listener
from server.access.roster import Roster
from server.flower.superlink_process import SuperLinkProcess, free_port

REQUESTS = 400
ROUNDS = 3


def stand(folder: Path, port: int, superlink_port: int) -> None:
    """The gateway in a process of its own, whose processor time can be told."""
    pair = folder / "certs" / "server.pem", folder / "certs" / "server.key"
    Listener("127.0.0.1", port, Gateway(superlink_port, Roster(folder)), *pair)
    threading.Event().wait()


def opened(connection: FleetConnection) -> FleetConnection:
    """A connection that works."""
    end = time.monotonic() + 60
    while True:
        try:
            connection.open()
            return connection
        except ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def timed_ms(connection: FleetConnection) -> list[float]:
    """How long each of many polls took, one after another on one connection."""
    took = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        connection.receive()
        took.append(1000 * (time.perf_counter() - started))
    return took


def main() -> None:
    """Run both, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder, superlink_port, port = Path(name), free_port(), free_port()
        link = SuperLinkProcess(folder, "127.0.0.1", superlink_port)
        link.start()
        list(Certificates(folder / "certs").make([], []))
        key = new_private()
        Roster(folder).enroll("bench", key.public_key())
        gateway = multiprocessing.get_context("spawn").Process(
            target=stand, args=(folder, port, superlink_port), daemon=True
        )
        gateway.start()
        try:
            roots = (folder / "certs" / "ca.pem").read_bytes()
            straight = opened(FleetConnection(f"127.0.0.1:{superlink_port}"))
            through = opened(FleetConnection(f"127.0.0.1:{port}", roots, key))
            process = psutil.Process(gateway.pid)
            direct, guarded = [], []
            before = sum(process.cpu_times()[:2])
            for _ in range(ROUNDS):
                direct += timed_ms(straight)
                guarded += timed_ms(through)
            cpu_ms = 1000 * (sum(process.cpu_times()[:2]) - before) / len(guarded)
            memory_mb = process.memory_info().rss / 2**20
            straight.close()
            through.close()
        finally:
            gateway.kill()
            gateway.join()
            link.end()
    straight_ms, through_ms = statistics.median(direct), statistics.median(guarded)
    publish(
        "gateway",
        f"A poll of one client, {len(guarded)} one after another",
        ["", "median ms", "gateway's processor ms"],
        [
            ["straight to SuperLink", f"{straight_ms:.2f}", ""],
            ["by the gateway, with TLS", f"{through_ms:.2f}", f"{cpu_ms:.2f}"],
        ],
        straight_ms=round(straight_ms, 2),
        through_ms=round(through_ms, 2),
        gateway_cpu_ms=round(cpu_ms, 2),
        gateway_memory_mb=round(memory_mb),
    )


if __name__ == "__main__":
    main()
