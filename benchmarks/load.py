"""`make bench-load`: one server with 300 clients that do not train: updates per second, processor, memory.

The run ends after `FLOCKWATCH_LOAD_UPDATES` updates or `FLOCKWATCH_LOAD_S` seconds, whichever comes first;
`FLOCKWATCH_LOAD_CLIENTS` sets the number of clients.

The growth of resident memory is the slope of a line fitted to one sample per second, for each half of the
updates. In the first half, bounded caches fill: the allocator's heap, SQLite's page cache, the newest part of
the log and of the replies. A leak shows in the second half. Resident memory fluctuates by several MB, so a
slope over fewer than 10,000 updates is not reliable.
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
from common.processes.children import Processes
from common.processes.packages import python_module
from common.settings import Settings
from server.federation import status_file
from server.flower.superlink_process import flower_environment, free_port

CLIENTS, PROCESSES = int(os.environ.get("FLOCKWATCH_LOAD_CLIENTS", "300")), 3
UPDATES = int(os.environ.get("FLOCKWATCH_LOAD_UPDATES", "20000"))
LIMIT_S = float(os.environ.get("FLOCKWATCH_LOAD_S", "1800"))
START_LIMIT_S = 300.0
SAMPLE_EVERY_S = 1.0

PARTS = {"SuperLink": "server.flower.superlink", "ServerApp": "flwr-serverapp"}


def main() -> None:
    """Run the server and the clients, and publish throughput, processor time and memory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # ends the child processes, too
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name, Processes(grace_s=20) as processes:
        samples = _run(Path(name), processes)
    updates = samples[:, 0]
    second_half = updates > updates[-1] / 2
    wall_s = samples[-1, 1] - samples[0, 1]
    rate = (updates[-1] - updates[0]) / wall_s
    rows, figures = [["updates per second", f"{rate:.1f}", "", "", ""]], {}
    for i, part in enumerate(PARTS):
        rss, cpu_s = samples[:, 2 + 2 * i] / 2**20, samples[:, 3 + 2 * i]
        growth = [10_000 * np.polyfit(updates[half], rss[half], 1)[0] for half in (~second_half, second_half)]
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
        f"One server, {CLIENTS} clients that do not train, {updates[-1]:.0f} updates in {wall_s:.0f} s",
        ["", "cores", "MB at the end", "MB per 10,000 updates: first half", "second half"],
        rows,
        clients=CLIENTS,
        updates=int(updates[-1]),
        updates_per_s=round(float(rate), 2),
        **figures,
    )


def _run(folder: Path, processes: Processes) -> np.ndarray:
    """Run until enough updates or the time limit.

    Returns:
        One row per sample: updates, time in seconds, and for each of `PARTS` its resident bytes and
        processor seconds.
    """
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
            raise RuntimeError(f"the ServerApp did not start; the log ends:\n{processes.log_tail('server')}")
        time.sleep(0.1)
    share = CLIENTS // PROCESSES
    for i in range(PROCESSES):
        command = [*python_module("benchmarks.federations.light_clients"), "--server", f"127.0.0.1:{port}"]
        command += ["--first", str(i * share), "--clients", str(share)]
        processes.start(
            f"light-{i}", command, folder / f"light-{i}.log", flower_environment(folder / f"flower-{i}")
        )
    samples: list[list[float]] = []
    started = time.monotonic()
    while True:
        time.sleep(SAMPLE_EVERY_S)
        if processes.exit_code("server") is not None:
            raise RuntimeError(f"the server ended; its log ends:\n{processes.log_tail('server')}")
        now, status = time.monotonic(), status_file.read(folder / "server" / "fleet.json")
        updates = sum(c.get("admitted", 0) for c in status["clients"].values()) if status else 0
        if not samples and now > started + START_LIMIT_S:
            raise RuntimeError(f"no update within {START_LIMIT_S:.0f} s:\n{processes.log_tail('server')}")
        if updates:
            samples.append([updates, now, *_usage(processes.pid("server"))])
            if updates >= UPDATES or now > samples[0][1] + LIMIT_S:
                return np.array(samples, np.float64)


def _usage(server: int) -> list[float]:
    """Return resident bytes and processor seconds of each of `PARTS`, flat."""
    usage = dict.fromkeys(PARTS, (0.0, 0.0))
    for process in psutil.Process(server).children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            for part, program in PARTS.items():
                if program in command:
                    times = process.cpu_times()
                    usage[part] = (float(process.memory_info().rss), times.user + times.system)
    return [value for pair in usage.values() for value in pair]


if __name__ == "__main__":
    main()
