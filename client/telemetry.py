"""A fleet of machines to practise on: seeded telemetry with seasons, correlations and labelled faults.

Each machine has a level, a load and a noise of its own. What drives a machine is its workload, with a daily
and a weekly season; its metrics follow from it, so that a fault shows in how they relate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data import Partition
from common.schema import Schema

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

FAULT_EVERY = 250
"""One fault in so many test rows."""

Series = NDArray[np.float64]
Fault = Callable[[Series, slice, np.random.Generator], None]
"""Changes the rows of a span in place; the array has shape (rows, metrics)."""


@dataclass(frozen=True)
class Machine:
    """What makes one machine unlike the others."""

    name: str
    load: float
    """Mean workload, 0 to 1."""
    swing: float
    """How far the workload follows the hour of the day."""
    phase: float
    """When its day begins, in days."""
    speed: float
    """Requests per second at full workload."""
    noise: float
    """Size of the noise, as a share of each metric's scale."""


def fleet(machines: int, rows: int, test_rows: int, seed: int) -> list[Partition]:
    """Telemetry of so many machines, one row a minute; every fault lies in the test rows.

    Args:
        machines: How many, at least 1.
        rows: Training rows of each.
        test_rows: Test rows of each.
        seed: Equal seeds give equal fleets.
    """
    rng = np.random.default_rng(seed)
    return [_partition(_machine(i, rng), rows, test_rows, rng) for i in range(machines)]


def _machine(index: int, rng: np.random.Generator) -> Machine:
    return Machine(
        name=f"machine-{index + 1}",
        load=rng.uniform(0.25, 0.5),
        swing=rng.uniform(0.1, 0.25),
        phase=rng.uniform(0, 1),
        speed=rng.uniform(150, 600),
        noise=rng.uniform(0.01, 0.03),
    )


def _partition(machine: Machine, rows: int, test_rows: int, rng: np.random.Generator) -> Partition:
    series = _telemetry(machine, rows + test_rows, rng)
    labels = _inject(series[rows:], rng)
    values = _within_range(series).astype(np.float32)
    return Partition(machine.name, Schema(METRICS), values[:rows], values[rows:], labels)


def _telemetry(machine: Machine, rows: int, rng: np.random.Generator) -> Series:
    day = np.arange(rows) / MINUTES_A_DAY + machine.phase
    weekend = (day % 7 >= 5) * 0.4
    season = machine.swing * (1 - weekend) * np.sin(2 * np.pi * day)
    work = np.clip(machine.load + season + _drifting(rows, 0.95, 0.015, rng), 0.02, 0.95)
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
    return series + machine.noise * 5 * scale * rng.standard_normal(series.shape)


def _drifting(rows: int, memory: float, size: float, rng: np.random.Generator) -> Series:
    """An autoregressive series: each value remembers the last."""
    return _lagging(size * rng.standard_normal(rows) / (1 - memory), 1 / (1 - memory), start=0.0)


def _lagging(series: Series, minutes: float, start: float | None = None) -> Series:
    """A series that follows another with a delay: an exponential moving average."""
    share = 1 / max(1.0, minutes)
    followed = np.empty_like(series)
    value = series[0] if start is None else start
    for i, target in enumerate(series):
        value += share * (target - value)
        followed[i] = value
    return followed


def _within_range(series: Series) -> Series:
    series = np.maximum(series, 0)
    for name in PERCENT:
        column = METRICS.index(name)
        series[:, column] = np.minimum(series[:, column], 100)
    return series


# Faults. Each changes some metrics over a span by an amount that the machine's own spread sets.


def _inject(series: Series, rng: np.random.Generator) -> NDArray[np.int8]:
    """Put faults of every kind, in turn, at random places that do not touch; returns the labels."""
    labels = np.zeros(len(series), np.int8)
    kinds = list(FAULTS.values())
    slots = max(1, len(series) // FAULT_EVERY)
    room = len(series) // slots
    for slot in range(slots):
        length, fault = kinds[slot % len(kinds)]
        begin = (
            slot * room + int(rng.integers(room // 4, room - length - 1))
            if room > 2 * length
            else slot * room
        )
        span = slice(begin, min(begin + length, len(series)))
        fault(series, span, rng)
        labels[span] = 1
    return labels


def _spread(series: Series) -> Series:
    return series.std(axis=0)


def _some(rng: np.random.Generator, count: int) -> list[int]:
    return rng.choice(len(METRICS), count, replace=False).tolist()


def _spike(series: Series, span: slice, rng: np.random.Generator) -> None:
    for metric in _some(rng, 3):
        series[span, metric] += rng.uniform(3, 6) * _spread(series)[metric]


def _level_shift(series: Series, span: slice, rng: np.random.Generator) -> None:
    for metric in _some(rng, 2):
        series[span, metric] += rng.choice([-1, 1]) * rng.uniform(1.5, 3) * _spread(series)[metric]


def _drift(series: Series, span: slice, rng: np.random.Generator) -> None:
    ramp = np.linspace(0, 1, span.stop - span.start)
    for metric in _some(rng, 2):
        series[span, metric] += ramp * rng.uniform(3, 5) * _spread(series)[metric]


def _stuck_sensor(series: Series, span: slice, rng: np.random.Generator) -> None:
    """A sensor repeats a value from some hours ago."""
    metric = _some(rng, 1)[0]
    series[span, metric] = series[max(0, span.start - int(rng.integers(300, 900))), metric]


def _broken_correlation(series: Series, span: slice, rng: np.random.Generator) -> None:
    """Some metrics take their course from another time of the day."""
    length = span.stop - span.start
    begin = int(rng.integers(0, max(1, len(series) - length)))
    other = series[begin : begin + length].copy()
    for metric in _some(rng, 4):
        mirrored = 2 * series[:, metric].mean() - series[span, metric]
        series[span, metric] = 0.5 * (other[:, metric] + mirrored)


FAULTS: dict[str, tuple[int, Fault]] = {
    "spike": (3, _spike),
    "level_shift": (20, _level_shift),
    "drift": (30, _drift),
    "stuck_sensor": (25, _stuck_sensor),
    "broken_correlation": (20, _broken_correlation),
}
"""Each kind: how many minutes it lasts, and what it does."""
