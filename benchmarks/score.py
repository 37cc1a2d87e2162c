"""`make bench-score`: from a line of JSON to a verdict, beside other detectors, in one run.

Every contender runs alone on one core, each peer next to a run of ours; then ours runs once more while a
trainer has all cores of this machine.
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

from benchmarks import stream
from benchmarks.contenders import PEERS
from benchmarks.results import publish
from client.service.supervisor import TrainerSupervisor
from common.packages import python_module
from common.processes import NICENESS

Figures = dict[str, float]

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
LIVE_EVENTS = 200_000


def main() -> None:
    """Run everything, and print the table and the figures."""
    core = {max(os.sched_getaffinity(0))}
    ours: list[Figures] = []
    peers: dict[str, Figures] = {}
    ratios: dict[str, float] = {}
    for name in PEERS:
        peers[name] = _contend(name, core)
        ours.append(_contend("flockwatch", core))
        ratios[name] = round(peers[name]["p50_us"] / ours[-1]["p50_us"], 2)
    mine = {key: statistics.median(found[key] for found in ours) for key in ours[0]}
    with tempfile.TemporaryDirectory(prefix="bench-score-") as place:
        beside = _beside_a_trainer(Path(place))
        start_s, live_per_s, rss_mb = _live(Path(place))
    rows = [["flockwatch", *_row(mine), "1"]]
    rows += [[name, *_row(found), f"{ratios[name]:.1f}"] for name, found in peers.items()]
    rows.append(["flockwatch, a trainer on the same cores", *_row(beside), ""])
    publish(
        "score",
        "38-64-16-64-38: one JSON line to a verdict, events that come one by one, on one core",
        ["", "p50 us", "p99 us", "events/s", "p50 ratio"],
        rows,
        p50_us=round(mine["p50_us"], 1),
        p99_us=round(mine["p99_us"], 1),
        events_per_s=round(mine["events_per_s"]),
        events_per_s_batched=round(mine["events_per_s_batched"]),
        peers=ratios,
        p99_us_while_training=round(beside["p99_us"], 1),
        p99_ratio_while_training=round(beside["p99_us"] / mine["p99_us"], 2),
        detect_start_s=round(start_s, 2),
        detect_events_per_s=round(live_per_s),
        rss_mb=round(rss_mb, 1),
    )


def _row(found: Figures) -> list[str]:
    return [f"{found['p50_us']:.1f}", f"{found['p99_us']:.1f}", f"{found['events_per_s']:.0f}"]


def _contend(name: str, cores: Iterable[int]) -> Figures:
    """One contender in a process of its own."""
    done = subprocess.run(
        [*python_module("benchmarks.contenders"), name],
        env=os.environ | ONE_THREAD, preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _beside_a_trainer(folder: Path) -> Figures:
    """Ours, while a trainer works with the priority that a client gives it."""
    log = folder / "trainer.log"
    trainer = TrainerSupervisor(python_module("benchmarks.training"), log, os.environ, 4 << 30)
    trainer.start()
    try:
        while "training" not in (log.read_text() if log.exists() else ""):
            if trainer.restarts:
                raise RuntimeError(f"the trainer died: {log.read_text()[-500:]}")
            time.sleep(0.1)
        pid = trainer.pid
        assert pid is not None and os.getpriority(os.PRIO_PROCESS, pid) == NICENESS
        return _contend("flockwatch", os.sched_getaffinity(0))
    finally:
        trainer.stop()


def _live(folder: Path) -> tuple[float, float, float]:
    """The real `flockwatch detect`: seconds to start and end, events a second, its largest memory in MB."""
    (folder / "version.safetensors").write_bytes(stream.version(1).pack())
    repeats = LIVE_EVENTS // len(stream.events())
    (folder / "one.jsonl").write_bytes(stream.events()[0] + b"\n")
    (folder / "many.jsonl").write_bytes((b"\n".join(stream.events()) + b"\n") * repeats)
    start_s, _ = _detect(folder, "one")
    many_s, rss_mb = _detect(folder, "many")
    return start_s, repeats * len(stream.events()) / (many_s - start_s), rss_mb


def _detect(folder: Path, name: str) -> tuple[float, float]:
    """Seconds and largest memory in MB of one process that scores a file to its end."""
    command = [
        *python_module("flockwatch"), "detect", "--manifest", "version.safetensors",
        "--name", name, "--source", f"file:{name}.jsonl", "--sink", "file:alerts.jsonl",
    ]  # fmt: skip
    started, peak_kb = time.perf_counter(), 0
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    memory = Path(f"/proc/{process.pid}/status")  # what the system says afterwards counts this process, too
    while process.poll() is None:
        if found := re.search(r"VmHWM:\s+(\d+)", memory.read_text()):
            peak_kb = int(found[1])
        time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"flockwatch detect ended with code {process.returncode}")
    return time.perf_counter() - started, peak_kb / 1024


if __name__ == "__main__":
    main()
