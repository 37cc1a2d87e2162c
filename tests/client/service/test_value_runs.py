from __future__ import annotations

import numpy as np
import pytest

from client.service.value_runs import ValueRuns

NAN = float("nan")


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_batches_give_the_same_runs_as_single_events(batch: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(900, 4)).astype(np.float32)
    rows[100:110, 0], rows[600:900, 0] = 0.5, 0.25
    rows[:, 1] = rng.integers(0, 3, 900)
    rows[rng.random(900) < 0.3, 2] = NAN
    rows[860:, 3] = 0.125
    times = np.arange(900.0)
    runs = ValueRuns(4)
    for start in range(0, 900, batch):
        runs.add(rows[start : start + batch], times[start : start + batch])
    first, second = runs.unusual()
    assert (first.feature, first.value, first.events, first.since, first.longest) == (0, 0.25, 300, 600.0, 10)
    assert (second.feature, second.value, second.events, second.since, second.longest) == (
        3,
        0.125,
        40,
        860.0,
        1,
    )
