"""`make bench-score`: time from a JSON line to a verdict, for flockwatch and for other detectors.

Each detector runs alone on one core, and flockwatch runs once after each peer. Then flockwatch runs while a
trainer process uses all cores.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.detection import stream
from benchmarks.detection.detectors import PEERS, VERSIONS
from benchmarks.results import publish
from client.service.supervisor import TrainerSupervisor
from common.processes.children import NICENESS
from common.processes.packages import python_module

Figures = dict[str, float]

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
LIVE_EVENTS = 200_000


def main() -> None:
    """Run all detectors and publish the table."""
    core = {max(os.sched_getaffinity(0))}
    runs: list[Figures] = []
    peers: dict[str, Figures] = {}
    ratios: dict[str, float] = {}
    for name in PEERS:
        peers[name] = _measure(name, core)
        runs.append(_measure("flockwatch", core))
        ratios[name] = round(peers[name]["p50_us"] / runs[-1]["p50_us"], 2)
    others = {name: _measure(name, core) for name in VERSIONS if name != "flockwatch"}
    alone = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    with tempfile.TemporaryDirectory(prefix="bench-score-") as folder:
        training = _while_training(Path(folder))
        start_s, live_per_s, rss_mb = _live(Path(folder))
    rows = [["flockwatch", *_row(alone), "1"]]
    rows += [[name, *_row(figures), ""] for name, figures in others.items()]
    rows += [[name, *_row(peer), f"{ratios[name]:.1f}"] for name, peer in peers.items()]
    rows.append(["flockwatch, while a trainer uses all cores", *_row(training), ""])
    publish(
        "score",
        "From a JSON line to a verdict, one event at a time, on one core; autoencoder 38-64-16-64-38",
        ["", "p50 us", "p99 us", "events/s", "p50 ratio"],
        rows,
        p50_us=round(alone["p50_us"], 1),
        p99_us=round(alone["p99_us"], 1),
        events_per_s=round(alone["events_per_s"]),
        events_per_s_batched=round(alone["events_per_s_batched"]),
        peers=ratios,
        p50_us_of_versions={name: round(figures["p50_us"], 1) for name, figures in others.items()},
        p99_us_while_training=round(training["p99_us"], 1),
        p99_ratio_while_training=round(training["p99_us"] / alone["p99_us"], 2),
        detect_start_s=round(start_s, 2),
        detect_events_per_s=round(live_per_s),
        rss_mb=round(rss_mb, 1),
    )


def _row(figures: Figures) -> list[str]:
    return [f"{figures['p50_us']:.1f}", f"{figures['p99_us']:.1f}", f"{figures['events_per_s']:.0f}"]


def _measure(name: str, cores: Iterable[int]) -> Figures:
    """Run one detector in its own process."""
    done = subprocess.run(
        [*python_module("benchmarks.detection.detectors"), name],
        env=os.environ | ONE_THREAD, preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _while_training(folder: Path) -> Figures:
    """Run flockwatch while a trainer process runs with the priority that a client gives it."""
    log = folder / "trainer.log"
    trainer = TrainerSupervisor(
        python_module("benchmarks.detection.background_training"), log, os.environ, 4 << 30
    )
    trainer.start()
    try:
        while "training" not in (log.read_text() if log.exists() else ""):
            if trainer.restarts:
                raise RuntimeError(f"the trainer died: {log.read_text()[-500:]}")
            time.sleep(0.1)
        pid = trainer.pid
        assert pid is not None
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
        return _measure("flockwatch", os.sched_getaffinity(0))
    finally:
        trainer.stop()


def _live(folder: Path) -> tuple[float, float, float]:
    """Run `flockwatch detect`; return its start-up time in s, events per second and peak memory in MB."""
    (folder / "version.safetensors").write_bytes(stream.version(1).pack())
    repeats = LIVE_EVENTS // len(stream.events())
    (folder / "one.jsonl").write_bytes(stream.events()[0] + b"\n")
    (folder / "many.jsonl").write_bytes((b"\n".join(stream.events()) + b"\n") * repeats)
    start_s, _ = _detect(folder, "one")
    many_s, rss_mb = _detect(folder, "many")
    return start_s, repeats * len(stream.events()) / (many_s - start_s), rss_mb


def _detect(folder: Path, name: str) -> tuple[float, float]:
    """Score a file with `flockwatch detect`; return its wall time in seconds and peak memory in MB."""
    command = [
        *python_module("flockwatch"), "detect", "--manifest", "version.safetensors",
        "--name", name, "--source", f"file:{name}.jsonl", "--sink", "file:alerts.jsonl",
    ]  # fmt: skip
    started, peak_kb = time.perf_counter(), 0
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    memory = Path(f"/proc/{process.pid}/status")  # ru_maxrss would include the parent's
    while process.poll() is None:
        if peak := re.search(r"VmHWM:\s+(\d+)", memory.read_text()):
            peak_kb = int(peak[1])
        time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"flockwatch detect ended with code {process.returncode}")
    return time.perf_counter() - started, peak_kb / 1024


if __name__ == "__main__":
    main()
