"""`RecentEvents.since` never returns a row that the detector is overwriting: its margin is a whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.buffers import recent_events
from client.buffers.recent_events import MAX_BATCH_EVENTS, EventSlice
from client.detection.detector import Detector
from common.settings import DataSettings, LiveSettings
from tests.client.sample_versions import SCHEMA, lines, version


class Interrupted(Exception):
    """The writer stands still: the rows of a batch are in the ring, and none is counted."""


class InterleavedRows:
    """The rows of a ring, which are written to between the start and the end of a reader's copy."""

    def __init__(self, rows: np.ndarray, write: Callable[[], None]) -> None:
        self.rows, self.write = rows, write

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, np.ndarray):
            self.write()
        return self.rows[index]


def batch(first: int) -> list[bytes]:
    numbers = np.arange(first, first + MAX_BATCH_EVENTS, dtype=np.float32)
    return lines(np.stack([numbers, numbers, numbers], axis=1))


def copy_while_writing(batches: int) -> EventSlice:
    """Fill a ring twice, then copy it while whole batches and the rows of one more are written."""
    detector = Detector("edge", SCHEMA, DataSettings(), LiveSettings())
    detector.activate(version(), math.inf)
    recent = detector.recent

    def step() -> None:
        detector.step(batch(recent.count), 0.0)

    for _ in range(2 * recent.size // MAX_BATCH_EVENTS):
        step()

    def interrupt(rows: np.ndarray) -> np.ndarray:
        raise Interrupted

    def write() -> None:
        for _ in range(batches):
            step()
        assert detector.active is not None
        detector.active.scorer.score_many = interrupt  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            step()

    recent.rows = InterleavedRows(recent.rows, write)  # type: ignore[assignment]
    return recent.since(0)


def overwritten(events: EventSlice) -> int:
    """Rows that are not those of their number."""
    return int((events.rows[:, 0] != events.start + np.arange(len(events.rows))).sum())


@pytest.mark.parametrize("batches", [0, 1, 5])
def test_a_copy_holds_no_row_that_was_overwritten_meanwhile(batches: int) -> None:
    events = copy_while_writing(batches)
    assert overwritten(events) == 0
    assert len(events.rows) == 8192 - (batches + 1) * MAX_BATCH_EVENTS


def test_a_margin_of_one_event_less_than_a_batch_would_be_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_events, "MAX_BATCH_EVENTS", MAX_BATCH_EVENTS - 1)
    assert overwritten(copy_while_writing(batches=1)) == 1
