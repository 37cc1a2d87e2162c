"""`make bench-swaps`: latency of a million events while ten new versions are tried and swapped in."""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import stream
from benchmarks.results import publish
from client.detection.detector import Detector
from client.maintenance.thread import DetectorMaintenance
from client.service.process import SWITCH_INTERVAL_S
from client.versions.version_store import VersionStore
from common.model.manifest import Manifest

EVENTS, SWAPS = 1_000_000, 10
LIMIT_US = 1000.0


def main() -> None:
    """Score the stream while `DetectorMaintenance` swaps versions, and publish the latencies."""
    with tempfile.TemporaryDirectory(prefix="bench-swaps-") as folder:
        latency_us, versions, on_trial = _run(Path(folder))
    swapped = np.flatnonzero(np.diff(versions, prepend=versions[0]))
    if len(swapped) != SWAPS or len(versions) != EVENTS:
        raise RuntimeError(f"{len(versions)} events were scored and {len(swapped)} versions swapped")
    figures = {
        "first event of a new version": latency_us[swapped],
        "events during a trial": latency_us[on_trial],
        "all other events": latency_us[~on_trial],
    }
    publish(
        "swaps",
        f"Latency in microseconds over {EVENTS} events, with {SWAPS} versions tried and swapped in",
        ["", "events", "p50", "p99", "p99.99", "max"],
        [[name, str(len(us)), *(f"{np.percentile(us, p):.1f}" for p in (50, 99, 99.99, 100))]
         for name, us in figures.items()],
        events=EVENTS,
        swaps=len(swapped),
        swap_us_max=round(float(latency_us[swapped].max()), 1),
        trial_us_p9999=round(float(np.percentile(latency_us[on_trial], 99.99)), 1),
        trial_us_max=round(float(latency_us[on_trial].max()), 1),
        trial_over_1_ms=int((latency_us[on_trial] > LIMIT_US).sum()),
        other_us_p9999=round(float(np.percentile(latency_us[~on_trial], 99.99)), 1),
        other_us_max=round(float(latency_us[~on_trial].max()), 1),
        other_over_1_ms=int((latency_us[~on_trial] > LIMIT_US).sum()),
    )  # fmt: skip


def _run(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Score all events.

    Returns:
        For each event: latency in microseconds, the version that scored it, and whether a trial was running.
    """
    settings = stream.SETTINGS
    detector = Detector("bench", stream.SCHEMA, settings.data, settings.live)
    store = VersionStore(folder)
    first = stream.version(1)
    store.offer(first.pack())
    maintenance = DetectorMaintenance(detector, settings, folder, store)
    latency_ns, versions = np.empty(EVENTS, np.int64), np.empty(EVENTS, np.int64)
    on_trial = np.zeros(EVENTS, np.bool_)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    maintenance.start()
    while detector.active is None:
        time.sleep(0.01)
    offers = {(i + 1) * EVENTS // (SWAPS + 1): _later(first, i + 2) for i in range(SWAPS)}
    newest = first.version
    clock = time.perf_counter_ns
    for i, line in enumerate(itertools.islice(itertools.cycle(stream.events()), EVENTS)):
        if i in offers:
            newest = offers[i].version
            store.offer(offers[i].pack())
        started = clock()
        (verdict,) = detector.step((line,), 0.0).verdicts
        latency_ns[i] = clock() - started
        versions[i] = verdict.version
        on_trial[i] = verdict.version != newest
    maintenance.stop()
    return latency_ns / 1e3, versions, on_trial


def _later(first: Manifest, number: int) -> Manifest:
    """Return a later version: the first one's weights with small random changes."""
    rng = np.random.default_rng(number)
    weights = {
        name: array + rng.normal(0, 1e-3, array.shape).astype(np.float32)
        for name, array in first.weights.items()
    }
    return replace(first, version=number, weights=weights)


if __name__ == "__main__":
    main()
