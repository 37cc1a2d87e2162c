from __future__ import annotations

import numpy as np
import pytest

from client.versions.drift import COMPARED_SCORES, IN_A_ROW, Drift
from common.model.histogram import ScoreHistogram

P = 1e-6


def lognormal(size: int, seed: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(mean, 1, size)


CALIBRATION = ScoreHistogram.of(lognormal(5000, 0))


def test_scores_of_the_same_kind_are_no_drift() -> None:
    drift = Drift(P, CALIBRATION)
    for seed in range(1, 20):
        drift.add(lognormal(700, seed))
        assert not drift.drifted


@pytest.mark.parametrize("calibrated", [True, False])
def test_other_scores_are_drift_after_some_windows_and_no_more_once_they_are_gone(calibrated: bool) -> None:
    drift = Drift(P, CALIBRATION if calibrated else None)
    if not calibrated:
        drift.add(lognormal(COMPARED_SCORES, 0))
    drift.add(lognormal(COMPARED_SCORES * IN_A_ROW - 1, 1, mean=0.5))
    assert not drift.drifted
    drift.add(lognormal(1, 2, mean=0.5))
    assert drift.drifted
    drift.add(lognormal(COMPARED_SCORES, 3))
    assert not drift.drifted


def test_one_unusual_window_is_not_drift() -> None:
    drift = Drift(P, CALIBRATION)
    for seed in range(5):
        drift.add(lognormal(COMPARED_SCORES, seed, mean=2.0 * (seed % 2)))
        assert not drift.drifted


def test_without_scores_nothing_has_drifted() -> None:
    drift = Drift(P)
    drift.add(np.empty(0))
    assert not drift.drifted
