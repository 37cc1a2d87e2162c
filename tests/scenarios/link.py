"""Two network namespaces joined by a link that can be slow, lossy or cut; it runs in user space.

Run as a program it is the link itself: two TAP devices, and `DELAY_S LOSS BYTES_PER_S` for each line on
standard input.
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
"""Of the range for benchmarks; they exist only inside the namespaces."""

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def why_not() -> str | None:
    """Why namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"network namespaces need the commands {', '.join(missing)}"
    name = f"fw-try-{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        if made.returncode:
            return f"no network namespace can be made here: {made.stderr.strip()}"
        with open("/dev/net/tun", "rb+", buffering=0) as tun:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"", IFF_TAP | IFF_NO_PI))
    except OSError as error:
        return f"no TAP device can be made here: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


class Network:
    """The namespaces `server` and `far`, and the link between them; whole and fast until told otherwise."""

    def __init__(self) -> None:
        tag = f"{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self.server, self.far = f"fw-server-{tag}", f"fw-far-{tag}"
        near_tap, far_tap = f"n{os.getpid()}", f"f{os.getpid()}"
        for name in (self.server, self.far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._link = subprocess.Popen(
            [*self.inside(self.server), sys.executable, __file__, near_tap, far_tap],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._link.stdout is not None
        assert self._link.stdout.readline() == "ready\n"
        _ip("-n", self.server, "link", "set", far_tap, "netns", self.far)
        for name, tap, address in (
            (self.server, near_tap, SERVER_SIDE),
            (self.far, far_tap, CLIENT_SIDE),
        ):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", tap)
            _ip("-n", name, "link", "set", tap, "up")

    def inside(self, name: str) -> list[str]:
        """The start of a command that runs in a namespace."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def set(self, delay_s: float = 0.0, loss: float = 0.0, bytes_per_s: float = math.inf) -> None:
        """From now on delay frames, lose this share of them, and carry so many bytes a second each way."""
        assert self._link.stdin is not None
        self._link.stdin.write(f"{delay_s} {loss} {bytes_per_s}\n")
        self._link.stdin.flush()

    def close(self) -> None:
        """Take everything down."""
        for stream in (self._link.stdin, self._link.stdout):
            if stream is not None:
                stream.close()
        self._link.kill()
        self._link.wait()
        for name in (self.server, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def _carry(near: int, far: int) -> None:
    other = {near: far, far: near}
    waiting: list[tuple[float, int, int, bytes]] = []
    delay_s, loss, bytes_per_s, count = 0.0, 0.0, math.inf, 0
    free_at = {near: 0.0, far: 0.0}
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for source in select.select([near, far, sys.stdin], [], [], wait_s)[0]:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                delay_s, loss, bytes_per_s = map(float, line.split())
                continue
            with suppress(OSError):  # the device is down, or was moved
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
    _carry(*devices)
