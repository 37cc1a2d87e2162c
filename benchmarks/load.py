"""`make bench-load`: one server and 300 light clients on this machine: updates per second, processor, memory.

`FLOCKWATCH_LOAD_UPDATES` and `FLOCKWATCH_LOAD_S` set when to stop, whichever comes first;
`FLOCKWATCH_LOAD_CLIENTS` how many there are.

How fast resident memory grows is told of each half of the updates, as the slope of a line through one sample
a second. The first half begins with the start, and in it things fill that have a bound: the allocator's heap,
SQLite's pages, the newest of the log and of the answers. What leaks goes on in the last half. Resident memory
swings by several MB meanwhile, so that a slope over fewer than 10,000 updates says little.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from benchmarks.results import publish
from common.config import save
from common.packages import python_module
from common.processes import Processes
from common.settings import Settings
from server.federation import status_file
from server.flower.superlink_process import flower_environment, free_port

CLIENTS, PROCESSES = int(os.environ.get("FLOCKWATCH_LOAD_CLIENTS", "300")), 3
UPDATES = int(os.environ.get("FLOCKWATCH_LOAD_UPDATES", "20000"))
LIMIT_S = float(os.environ.get("FLOCKWATCH_LOAD_S", "1800"))
START_LIMIT_S = 300.0
LOOK_EVERY_S = 1.0

PARTS = {"SuperLink": "server.flower.superlink", "ServerApp": "flwr-serverapp"}


def main() -> None:
    """Start the server, then the clients, and watch."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by a signal"))  # with all that it started
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name, Processes(grace_s=20) as processes:
        samples = _run(Path(name), processes)
    updates = samples[:, 0]
    late = updates > updates[-1] / 2
    wall_s = samples[-1, 1] - samples[0, 1]
    rate = (updates[-1] - updates[0]) / wall_s
    rows, figures = [["updates a second", f"{rate:.1f}", "", "", ""]], {}
    for i, part in enumerate(PARTS):
        rss, cpu_s = samples[:, 2 + 2 * i] / 2**20, samples[:, 3 + 2 * i]
        growth = [10_000 * np.polyfit(updates[half], rss[half], 1)[0] for half in (~late, late)]
        cores = (cpu_s[-1] - cpu_s[0]) / wall_s
        rows.append([part, f"{cores:.2f}", f"{rss[-1]:.0f}", *(f"{mb:+.1f}" for mb in growth)])
        figures |= {
            f"{part.lower()}_cores": round(cores, 2),
            f"{part.lower()}_mb": round(float(rss[-1]), 1),
            f"{part.lower()}_mb_per_10000_updates_first_half": round(float(growth[0]), 2),
            f"{part.lower()}_mb_per_10000_updates_last_half": round(float(growth[1]), 2),
        }
    publish(
        "load",
        f"{CLIENTS} light clients, one server, {updates[-1]:.0f} updates in {wall_s:.0f} s",
        ["", "cores", "MB in the end", "more per 10,000 updates: first half", "last half"],
        rows,
        clients=CLIENTS,
        updates=int(updates[-1]),
        updates_per_s=round(float(rate), 2),
        **figures,
    )


def _run(folder: Path, processes: Processes) -> np.ndarray:
    """Samples of (updates, time, and for each part its resident bytes and processor seconds)."""
    port = free_port()
    settings = Settings().with_values(
        model={"window": 4, "hidden": (32, 8, 32)},
        federation={
            "mode": "asynchronous", "buffer": 32, "min_clients": CLIENTS // 2, "max_rounds": 10**6,
            "patience": 0, "quorum": 0.1,
        },
        server={"port": port, "state": folder / "server"},
    )  # fmt: skip
    config = folder / "settings.yaml"
    save(settings, config)
    command = [*python_module("flockwatch"), "server", "--config", str(config)]
    processes.start(
        "server", command, folder / "server.log", flower_environment(folder / "server" / "flower")
    )
    limit = time.monotonic() + START_LIMIT_S
    while not (folder / "server" / "run.log").exists():  # the ServerApp is up
        if time.monotonic() > limit:
            raise RuntimeError(f"the ServerApp did not start:\n{processes.log_tail('server')}")
        time.sleep(0.1)
    share = CLIENTS // PROCESSES
    for i in range(PROCESSES):
        light = [*python_module("benchmarks.light_clients"), "--server", f"127.0.0.1:{port}"]
        light += ["--first", str(i * share), "--clients", str(share)]
        processes.start(
            f"light-{i}", light, folder / f"light-{i}.log", flower_environment(folder / f"flower-{i}")
        )
    samples: list[list[float]] = []
    began = time.monotonic()
    while True:
        time.sleep(LOOK_EVERY_S)
        if processes.exit_code("server") is not None:
            raise RuntimeError(f"the server ended:\n{processes.log_tail('server')}")
        now, shown = time.monotonic(), status_file.read(folder / "server" / "fleet.json")
        updates = sum(c.get("admitted", 0) for c in shown["clients"].values()) if shown else 0
        if not samples and now > began + START_LIMIT_S:
            raise RuntimeError(f"no update within {START_LIMIT_S:.0f} s:\n{processes.log_tail('server')}")
        if updates:
            samples.append([updates, now, *_usage(processes.pid("server"))])
            if updates >= UPDATES or now > samples[0][1] + LIMIT_S:
                return np.array(samples, np.float64)


def _usage(server: int) -> list[float]:
    found = dict.fromkeys(PARTS, (0.0, 0.0))
    for process in psutil.Process(server).children(recursive=True):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            for part, program in PARTS.items():
                if program in words:
                    times = process.cpu_times()
                    found[part] = (float(process.memory_info().rss), times.user + times.system)
    return [value for pair in found.values() for value in pair]


if __name__ == "__main__":
    main()
