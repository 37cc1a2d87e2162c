"""`make bench-memory`: the resident memory of one client over 200 rounds."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from benchmarks import flock
from benchmarks.results import publish

ROUNDS = 200
SETTLED = 10
"""The round from which growth counts."""

LOOK_EVERY_S = 0.1
LIMIT_S = 900.0


def main() -> None:
    """Run the job, watch one client, and print the slope of its memory."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        folder = Path(name)
        samples = _watch(flock.command(ROUNDS, folder))
        ends = [r["ended_at"] for r in flock.report(folder)["rounds"] if r["kind"] == "train"]
    times, sizes = np.array(samples).T
    rss = np.interp(ends, times, sizes / 2**20)
    settled = np.arange(SETTLED, len(rss) + 1)
    slope, base = np.polyfit(settled, rss[SETTLED - 1 :], 1)
    growth = 100 * slope * (len(rss) - SETTLED) / (base + slope * SETTLED)
    publish(
        "memory",
        f"Resident memory of one client over {len(rss)} rounds",
        ["", "MB"],
        [
            [f"after round {SETTLED}", f"{rss[SETTLED - 1]:.1f}"],
            [f"after round {len(rss)}", f"{rss[-1]:.1f}"],
            ["slope a round", f"{slope:.4f}"],
            ["growth by the slope", f"{growth:.2f} %"],
        ],
        rounds=len(rss),
        rss_mb_settled=round(float(rss[SETTLED - 1]), 1),
        rss_mb_end=round(float(rss[-1]), 1),
        slope_mb_per_round=round(float(slope), 5),
        growth_percent=round(float(growth), 3),
    )


def _watch(command: list[str]) -> list[tuple[float, float]]:
    """Run a command; time and resident bytes of its first client, over and over."""
    samples: list[tuple[float, float]] = []
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        client: psutil.Process | None = None
        while process.poll() is None:
            if time.monotonic() - started > LIMIT_S:
                process.terminate()
            client = client or _client(process.pid)
            if client is not None and client.is_running():
                with suppress(psutil.NoSuchProcess):
                    samples.append((time.time(), float(client.memory_info().rss)))
            time.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"the run ended with code {process.returncode}")
    return samples


def _client(parent: int) -> psutil.Process | None:
    """The first child that is a client; children are found by what they were started as."""
    for child in psutil.Process(parent).children():
        if "client" in child.cmdline():
            return child
    return None


if __name__ == "__main__":
    main()
