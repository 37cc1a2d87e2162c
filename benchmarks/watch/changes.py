"""Changes of copies of a stream, as they happen on live machines without being labelled faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHIFT_SPREADS = 8.0
"""Size of the lasting shift, in standard deviations of the metric."""
QUANTUM = 0.01
"""The step of the near-constant metric, which makes it in one of `QUANTUM_EVERY` events on average."""
QUANTUM_EVERY = 200
COUNTER_EVENTS = 1440
"""Events after which the counter is set back to 0, as at a restart: five days of five minutes."""
TAG = {"rack": "r12-left"}
"""The text tag: a field that is not a number."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A machine's rows, which are replayed as its stream."""

    name: str
    features: tuple[str, ...]
    rows: NDArray[np.float32]
    """Shape (n, features); NaN is a value that is missing, sent as null."""
    labels: NDArray[np.bool_]
    """Whether each row is part of a fault, shape (n,)."""
    test_from: int
    """Number of the first row that may be labelled."""
    extras: tuple[tuple[str, str], ...] = ()
    """Fields that each event has besides."""

    def part(self, begin: int) -> Recording:
        """Return the rows from number `begin` on."""
        return replace(
            self, rows=self.rows[begin:], labels=self.labels[begin:], test_from=self.test_from - begin
        )

    def event(self, index: int, time_s: float) -> bytes:
        """Return an event as a JSON line with the field `ts`."""
        values = (None if value != value else value for value in self.rows[index].tolist())
        event: dict[str, Any] = {"ts": time_s, **dict(zip(self.features, values, strict=True))}
        return json.dumps({**event, **dict(self.extras)}).encode() + b"\n"


def usual_feature(recording: Recording) -> str:
    """Return the feature with the median spread on rows without labels: neither constant nor extreme."""
    spread = recording.rows[: recording.test_from].std(axis=0)
    return recording.features[int(np.argsort(spread, kind="stable")[len(spread) // 2])]


def shifted(recording: Recording, feature: str, begin: int) -> Recording:
    """Return a copy in which a feature is higher from row `begin` to the end, by `SHIFT_SPREADS`."""
    rows, column = recording.rows.copy(), recording.features.index(feature)
    rows[begin:, column] += SHIFT_SPREADS * rows[:begin, column].std()
    return replace(recording, name=f"{recording.name}-shift", rows=rows)


def silent(recording: Recording, feature: str, begin: int) -> Recording:
    """Return a copy in which a feature has no value from row `begin` on."""
    rows = recording.rows.copy()
    rows[begin:, recording.features.index(feature)] = np.nan
    return replace(recording, name=f"{recording.name}-silent", rows=rows)


def near_constant(recording: Recording, feature: str) -> Recording:
    """Return a copy in which a feature is 0, and now and then `QUANTUM`."""
    rows = recording.rows.copy()
    steps = np.random.default_rng(3).random(len(rows)) < 1 / QUANTUM_EVERY
    rows[:, recording.features.index(feature)] = np.where(steps, QUANTUM, 0.0)
    return replace(recording, name=f"{recording.name}-constant", rows=rows)


def counter(recording: Recording, feature: str) -> Recording:
    """Return a copy in which a feature counts up from 0 to 1, and starts again after `COUNTER_EVENTS`."""
    rows = recording.rows.copy()
    steps = np.random.default_rng(4).exponential(1 / COUNTER_EVENTS, len(rows))
    count = np.cumsum(steps)
    before = np.repeat(count[::COUNTER_EVENTS], COUNTER_EVENTS)[: len(rows)]
    rows[:, recording.features.index(feature)] = count - before
    return replace(recording, name=f"{recording.name}-counter", rows=rows)


def tagged(recording: Recording) -> Recording:
    """Return a copy whose events have a text tag."""
    return replace(recording, name=f"{recording.name}-tag", extras=tuple(TAG.items()))


def most_faults(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """Return the recordings with the most faults, at most `count`, in their given order."""
    faults = [int((np.diff(r.labels.astype(np.int8), prepend=0) == 1).sum()) for r in recordings]
    chosen = sorted(np.argsort(-np.array(faults), kind="stable")[:count].tolist())
    return [recordings[number] for number in chosen]
