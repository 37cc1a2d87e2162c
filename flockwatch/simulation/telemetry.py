"""Generated telemetry of a fleet of machines, with seasons, correlations and labelled faults.

Each machine has its own level, load and noise. Its metrics follow from its workload, which has a daily and a
weekly season, so that a fault shows in the relation of the metrics. The same seed gives the same fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from client.data.partition import Partition
from common.model.schema import Schema
from common.settings import DataSettings

START_S = 1_767_571_200
"""Time stamp of the first row: Monday, 2026-01-05 00:00 UTC."""

MINUTES_A_DAY = 1440
METRICS = (
    "cpu_percent",
    "load_1m",
    "memory_percent",
    "disk_read_mb_s",
    "disk_write_mb_s",
    "net_in_mb_s",
    "net_out_mb_s",
    "requests_per_s",
    "latency_ms",
    "temperature_c",
)
PERCENT = ("cpu_percent", "memory_percent")

FAULT_EVERY = 130
"""Test rows for each fault."""
FAULT_COLUMN = "_fault"

Series = NDArray[np.float64]
Fault = Callable[[Series, slice, Series, np.random.Generator], None]
"""Changes a span of rows, shape (rows, metrics), in place; its argument is the standard deviations."""


@dataclass(frozen=True)
class SimulatedMachine:
    """The parameters of one machine."""

    name: str
    load: float
    """Mean workload, 0 to 1."""
    swing: float
    """Amplitude of the daily season of the workload."""
    phase: float
    """Phase of the daily season, in days."""
    speed: float
    """Requests per second at full workload."""
    noise: float
    """Noise of each metric, as a share of its standard deviation."""


@dataclass(frozen=True, eq=False)
class Recording:
    """The rows of one machine, one per minute from `START_S` on, and its faults."""

    machine: SimulatedMachine
    partition: Partition
    faults: NDArray[np.str_]
    """Kind of fault in each test row, a key of `FAULTS`, or empty; shape (test rows,)."""


def fleet(machines: int, rows: int = 4000, test_rows: int = 2000, *, seed: int) -> list[Partition]:
    """Return the partitions of the machines that `record` generates.

    Args:
        machines: Number of machines, at least 1.
        rows: Training rows of each machine, at least 1.
        test_rows: Test rows of each machine.
        seed: Random seed.
    """
    return [recording.partition for recording in record(machines, rows, test_rows, seed=seed)]


def record(machines: int, rows: int = 4000, test_rows: int = 2000, *, seed: int) -> list[Recording]:
    """Generate the telemetry of machines, one row per minute; only test rows have faults.

    Args:
        machines: Number of machines, at least 1. A larger fleet begins with the same machines.
        rows: Training rows of each machine, at least 1.
        test_rows: Test rows of each machine. From 650 on each kind of fault occurs; in 2,000, three times.
        seed: Random seed.

    Raises:
        ValueError: a number is too small.
    """
    for name, value, minimum in (("machines", machines, 1), ("rows", rows, 1), ("test_rows", test_rows, 0)):
        if value < minimum:
            raise ValueError(f"{name} is {value}; expected at least {minimum}")
    return [_recording(i, rows, test_rows, np.random.default_rng((seed, i))) for i in range(machines)]


def write(recordings: Sequence[Recording], folder: Path) -> list[Path]:
    """Write a Parquet file for each machine with time stamp, metrics, split, label and kind of fault."""
    names = DataSettings()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for recording in recordings:
        part = recording.partition
        values = np.concatenate([part.rows, part.test_rows])
        faults = np.concatenate([np.full(len(part.rows), ""), recording.faults])
        columns = {
            names.time_name: START_S + 60 * np.arange(len(values), dtype=np.int64),
            **{metric: values[:, i] for i, metric in enumerate(METRICS)},
            names.split: (np.arange(len(values)) >= len(part.rows)).astype(np.int8),
            names.label: (faults != "").astype(np.int8),
            FAULT_COLUMN: faults,
        }
        paths.append(folder / f"{part.name}.parquet")
        pyarrow.parquet.write_table(pa.table(columns), paths[-1])
    return paths


def _machine(index: int, rng: np.random.Generator) -> SimulatedMachine:
    return SimulatedMachine(
        name=f"machine-{index + 1}",
        load=rng.uniform(0.25, 0.5),
        swing=rng.uniform(0.1, 0.25),
        phase=rng.uniform(0, 1),
        speed=rng.uniform(150, 600),
        noise=rng.uniform(0.05, 0.15),
    )


def _recording(index: int, rows: int, test_rows: int, rng: np.random.Generator) -> Recording:
    machine = _machine(index, rng)
    series = _telemetry(machine, rows + test_rows, rng)
    faults = _inject(series[rows:], series.std(axis=0), rng)
    values = _within_range(series).astype(np.float32)
    labels = (faults != "").astype(np.int8) if test_rows else None
    partition = Partition(machine.name, Schema(METRICS), values[:rows], values[rows:], labels)
    return Recording(machine, partition, faults)


def _telemetry(machine: SimulatedMachine, rows: int, rng: np.random.Generator) -> Series:
    day = np.arange(rows) / MINUTES_A_DAY + machine.phase
    week = 1 - _lagging(np.where(day % 7 >= 5, 0.4, 0.0), 120)
    season = machine.load + machine.swing * np.sin(2 * np.pi * day)
    work = np.clip(week * season + _drifting(rows, 0.95, 0.015, rng), 0.02, 0.95)
    requests = machine.speed * work
    cpu = 5 + 85 * work
    columns = {
        "cpu_percent": cpu,
        "load_1m": _lagging(work, 3) * 4,
        "memory_percent": 30 + 25 * _lagging(work, 60),
        "disk_read_mb_s": 2 + 18 * _lagging(work, 2),
        "disk_write_mb_s": 1 + 10 * work,
        "net_in_mb_s": 0.01 * requests,
        "net_out_mb_s": 0.06 * requests,
        "requests_per_s": requests,
        "latency_ms": 8 + 20 * work / (1.1 - work),
        "temperature_c": 35 + 0.35 * _lagging(cpu, 15),
    }
    series = np.stack([columns[name] for name in METRICS], axis=1)
    scale = series.std(axis=0)
    noisy: Series = series + machine.noise * scale * rng.standard_normal(series.shape)
    return noisy


def _drifting(rows: int, memory: float, size: float, rng: np.random.Generator) -> Series:
    """Return an autoregressive series.

    Args:
        rows: Length of the series.
        memory: Share of a value that the next one keeps.
        size: Standard deviation of the noise.
        rng: Random generator.
    """
    return _lagging(size * rng.standard_normal(rows) / (1 - memory), 1 / (1 - memory), start=0.0)


def _lagging(series: Series, minutes: float, start: float | None = None) -> Series:
    """Return the exponential moving average of a series, which follows it with a delay."""
    share = 1 / max(1.0, minutes)
    average = np.empty_like(series)
    value = series[0] if start is None else start
    for i, target in enumerate(series):
        value += share * (target - value)
        average[i] = value
    return average


def _within_range(series: Series) -> Series:
    series = np.maximum(series, 0)
    for name in PERCENT:
        column = METRICS.index(name)
        series[:, column] = np.minimum(series[:, column], 100)
    return series


# Faults. Each changes some metrics over a span of rows, in proportion to their standard deviations.


def _inject(series: Series, stds: Series, rng: np.random.Generator) -> NDArray[np.str_]:
    """Insert faults of each kind in turn, at random places that do not touch; return each row's kind."""
    faults = np.full(len(series), "", dtype=f"U{max(map(len, FAULTS))}")
    count = max(1, len(series) // FAULT_EVERY)
    room = len(series) // count
    if room < 2 * MAX_FAULT:
        return faults
    kinds = list(FAULTS)
    for slot in range(count):
        shortest, longest, change = FAULTS[kinds[slot % len(kinds)]]
        length = int(rng.integers(shortest, longest + 1))
        begin = slot * room + int(rng.integers(1, room - length))
        span = slice(begin, begin + length)
        change(series, span, stds, rng)
        faults[span] = kinds[slot % len(kinds)]
    return faults


def _some(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
    return rng.choice(len(METRICS), count, replace=False)


def _spike(series: Series, span: slice, stds: Series, rng: np.random.Generator) -> None:
    """Raise some metrics for a moment."""
    for metric in _some(rng, 2):
        series[span, metric] += rng.uniform(1.5, 4) * stds[metric]


def _level_shift(series: Series, span: slice, stds: Series, rng: np.random.Generator) -> None:
    """Raise or lower some metrics for a while."""
    for metric in _some(rng, 2):
        series[span, metric] += rng.choice([-1, 1]) * rng.uniform(0.8, 2) * stds[metric]


def _drift(series: Series, span: slice, stds: Series, rng: np.random.Generator) -> None:
    """Raise or lower some metrics more and more."""
    ramp = np.linspace(0, 1, span.stop - span.start)
    for metric in _some(rng, 2):
        series[span, metric] += ramp * rng.choice([-1, 1]) * rng.uniform(1, 3) * stds[metric]


def _stuck_sensor(series: Series, span: slice, stds: Series, rng: np.random.Generator) -> None:
    """Repeat an earlier value of one metric."""
    metric = _some(rng, 1)[0]
    series[span, metric] = series[int(rng.integers(0, span.start)), metric]


def _broken_correlation(series: Series, span: slice, stds: Series, rng: np.random.Generator) -> None:
    """Replace some metrics by their values at another time, where each alone looks normal."""
    length = span.stop - span.start
    begin = int(rng.integers(0, len(series) - length))
    metrics = _some(rng, 4)
    series[span, metrics] = series[begin : begin + length, metrics]


FAULTS: dict[str, tuple[int, int, Fault]] = {
    "spike": (1, 3, _spike),
    "level_shift": (6, 14, _level_shift),
    "drift": (10, 18, _drift),
    "stuck_sensor": (8, 16, _stuck_sensor),
    "broken_correlation": (6, 14, _broken_correlation),
}
"""Each kind of fault: its shortest and its longest duration in minutes, and its function."""
MAX_FAULT = max(longest for _, longest, _ in FAULTS.values())
