"""`make bench-memory`: resident memory of one client over 200 rounds."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from benchmarks.federations import flockwatch_job
from benchmarks.results import publish

ROUNDS = 200
WARM_UP_ROUNDS = 10
"""Growth is measured after this many rounds."""

SAMPLE_EVERY_S = 0.1
LIMIT_S = 900.0


def main() -> None:
    """Run the job, sample the memory of one client, and publish its growth."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        folder = Path(name)
        samples = _watch(flockwatch_job.command(ROUNDS, folder))
        ends = [r["ended_at"] for r in flockwatch_job.report(folder)["rounds"] if r["kind"] == "train"]
    times, sizes = np.array(samples).T
    rss = np.interp(ends, times, sizes / 2**20)
    measured = np.arange(WARM_UP_ROUNDS, len(rss) + 1)
    slope, base = np.polyfit(measured, rss[WARM_UP_ROUNDS - 1 :], 1)
    growth = 100 * slope * (len(rss) - WARM_UP_ROUNDS) / (base + slope * WARM_UP_ROUNDS)
    publish(
        "memory",
        f"Resident memory of one client over {len(rss)} rounds",
        ["", "MB"],
        [
            [f"after round {WARM_UP_ROUNDS}", f"{rss[WARM_UP_ROUNDS - 1]:.1f}"],
            [f"after round {len(rss)}", f"{rss[-1]:.1f}"],
            ["slope per round", f"{slope:.4f}"],
            ["growth over these rounds, by the slope", f"{growth:.2f} %"],
        ],
        rounds=len(rss),
        rss_mb_settled=round(float(rss[WARM_UP_ROUNDS - 1]), 1),
        rss_mb_end=round(float(rss[-1]), 1),
        slope_mb_per_round=round(float(slope), 5),
        growth_percent=round(float(growth), 3),
    )


def _watch(command: list[str]) -> list[tuple[float, float]]:
    """Run a command; return samples of (time, resident bytes) of its first client process."""
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
            time.sleep(SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"the run ended with code {process.returncode}")
    return samples


def _client(parent: int) -> psutil.Process | None:
    """Return the first child process whose command runs a client."""
    for child in psutil.Process(parent).children():
        if "client" in child.cmdline():
            return child
    return None


if __name__ == "__main__":
    main()
