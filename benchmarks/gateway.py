"""`make bench-gateway`: latency of a client's requests to SuperLink, direct and through the TLS gateway."""

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
from common.security.keys import new_private_key
from flockwatch.certs import Certificates
from server.access.gateway import Gateway
from server.access.listener import Listener
from server.access.roster import Roster
from server.flower.superlink_process import SuperLinkProcess, free_port

REQUESTS = 400
ROUNDS = 3


def serve(folder: Path, port: int, superlink_port: int) -> None:
    """Serve the gateway; runs in its own process so that its processor time can be measured."""
    pair = folder / "certs" / "server.pem", folder / "certs" / "server.key"
    Listener("127.0.0.1", port, Gateway(superlink_port, Roster(folder)), *pair)
    threading.Event().wait()


def opened(connection: FleetConnection) -> FleetConnection:
    """Open a connection, trying again for up to 60 s while the server starts, and return it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.open()
            return connection
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def timed_ms(connection: FleetConnection) -> list[float]:
    """Poll `REQUESTS` times on one connection; return the latency of each poll in milliseconds."""
    latencies = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        connection.receive()
        latencies.append(1000 * (time.perf_counter() - started))
    return latencies


def main() -> None:
    """Measure both in turns and publish the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder, superlink_port, port = Path(name), free_port(), free_port()
        superlink = SuperLinkProcess(folder, "127.0.0.1", superlink_port)
        superlink.start()
        list(Certificates(folder / "certs").make([], []))
        key = new_private_key()
        Roster(folder).enroll("bench", key.public_key())
        gateway = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder, port, superlink_port), daemon=True
        )
        gateway.start()
        try:
            roots = (folder / "certs" / "ca.pem").read_bytes()
            direct = opened(FleetConnection(f"127.0.0.1:{superlink_port}"))
            through_gateway = opened(FleetConnection(f"127.0.0.1:{port}", roots, key))
            process = psutil.Process(gateway.pid)
            direct_ms, gateway_ms = [], []
            before = sum(process.cpu_times()[:2])
            for _ in range(ROUNDS):
                direct_ms += timed_ms(direct)
                gateway_ms += timed_ms(through_gateway)
            cpu_ms = 1000 * (sum(process.cpu_times()[:2]) - before) / len(gateway_ms)
            memory_mb = process.memory_info().rss / 2**20
            direct.close()
            through_gateway.close()
        finally:
            gateway.kill()
            gateway.join()
            superlink.end()
    direct_median, gateway_median = statistics.median(direct_ms), statistics.median(gateway_ms)
    publish(
        "gateway",
        f"Latency of a client's poll, {len(gateway_ms)} polls one after another",
        ["", "median ms", "gateway CPU ms"],
        [
            ["direct to SuperLink", f"{direct_median:.2f}", ""],
            ["through the gateway, with TLS", f"{gateway_median:.2f}", f"{cpu_ms:.2f}"],
        ],
        straight_ms=round(direct_median, 2),
        through_ms=round(gateway_median, 2),
        gateway_cpu_ms=round(cpu_ms, 2),
        gateway_memory_mb=round(memory_mb),
    )


if __name__ == "__main__":
    main()
