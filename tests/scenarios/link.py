"""Two network namespaces, connected by a link with a delay, losses and a bandwidth, in user space.

This file is also the program of the link: it forwards frames between two TAP devices, and reads new values as
lines `DELAY_S LOSS BYTES_PER_S` from standard input.
"""

from __future__ import annotations

import fcntl
import heapq
import math
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from contextlib import suppress

SERVER_SIDE, CLIENT_SIDE = "198.18.99.1", "198.18.99.2"
"""Addresses of the range for benchmarks (RFC 2544), which exist only in the namespaces."""

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def unavailable_reason() -> str | None:
    """Return why namespaces cannot be created here; None if they can."""
    if os.geteuid() != 0:
        return "creating network namespaces needs root"
    missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"network namespaces need the commands {', '.join(missing)}"
    name = f"fw-try-{os.getpid()}"
    try:
        created = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        if created.returncode:
            return f"no network namespace can be created here: {created.stderr.strip()}"
        with open("/dev/net/tun", "rb+", buffering=0) as tun:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"", IFF_TAP | IFF_NO_PI))
    except OSError as error:
        return f"no TAP device can be created here: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


class Network:
    """The namespaces of the server and of distant clients, and the link between them."""

    def __init__(self) -> None:
        tag = f"{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self.server, self.client_side = f"fw-server-{tag}", f"fw-client-{tag}"
        server_tap, client_tap = f"n{os.getpid()}", f"f{os.getpid()}"
        for name in (self.server, self.client_side):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._link = subprocess.Popen(
            [*self.command_prefix(self.server), sys.executable, __file__, server_tap, client_tap],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._link.stdout is not None
        assert self._link.stdout.readline() == "ready\n"
        _ip("-n", self.server, "link", "set", client_tap, "netns", self.client_side)
        for name, tap, address in (
            (self.server, server_tap, SERVER_SIDE),
            (self.client_side, client_tap, CLIENT_SIDE),
        ):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", tap)
            _ip("-n", name, "link", "set", tap, "up")

    def command_prefix(self, name: str) -> list[str]:
        """Return the words before a command that run it in a namespace."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def set(self, delay_s: float = 0.0, loss: float = 0.0, bytes_per_s: float = math.inf) -> None:
        """Set the delay, the share of lost frames, and the bandwidth of each direction."""
        assert self._link.stdin is not None
        self._link.stdin.write(f"{delay_s} {loss} {bytes_per_s}\n")
        self._link.stdin.flush()

    def close(self) -> None:
        """Remove the link and the namespaces."""
        for stream in (self._link.stdin, self._link.stdout):
            if stream is not None:
                stream.close()
        self._link.kill()
        self._link.wait()
        for name in (self.server, self.client_side):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def _forward(server_tap: int, client_tap: int) -> None:
    other = {server_tap: client_tap, client_tap: server_tap}
    waiting: list[tuple[float, int, int, bytes]] = []
    delay_s, loss, bytes_per_s, count = 0.0, 0.0, math.inf, 0
    free_at = {server_tap: 0.0, client_tap: 0.0}
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for source in select.select([server_tap, client_tap, sys.stdin], [], [], wait_s)[0]:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                delay_s, loss, bytes_per_s = map(float, line.split())
                continue
            with suppress(OSError):  # the device is down or in another namespace
                frame = os.read(source, 65536)
                if random.random() >= loss:
                    count += 1
                    free_at[source] = max(free_at[source], time.monotonic()) + len(frame) / bytes_per_s
                    heapq.heappush(waiting, (free_at[source] + delay_s, count, other[source], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, sink, frame = heapq.heappop(waiting)
            with suppress(OSError):
                os.write(sink, frame)


if __name__ == "__main__":
    devices = [_tap(name) for name in sys.argv[1:]]
    print("ready", flush=True)
    _forward(*devices)
