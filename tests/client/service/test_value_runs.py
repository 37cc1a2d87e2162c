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
    times = np.stack([1e9 + np.arange(900.0), np.arange(900.0)], axis=1)
    runs = ValueRuns(4)
    for start in range(0, 900, batch):
        runs.add(rows[start : start + batch], times[start : start + batch])
    first, second = runs.unusual()
    assert first == (0, 0.25, 300, 1e9 + 600, 600, 10)
    assert second == (3, 0.125, 40, 1e9 + 860, 860, 1)
