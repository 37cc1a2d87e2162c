from __future__ import annotations

import numpy as np
import pytest

from common.settings import Settings
from flockwatch.replay import replayed_detector
from tests.client.sample_versions import version


@pytest.mark.parametrize("score", [0.0, 0.37, 3.3, 41.9])
def test_a_threshold_is_rebased_on_scores_that_are_all_equal(score: float) -> None:
    with replayed_detector(version(), Settings()) as live:
        limit = live.maintenance.tuning.rebase(np.full(500, score, np.float32))
        assert np.isfinite(limit.value)
        assert live.maintenance.tuning.scores.count == 500
