from __future__ import annotations

import numpy as np
import pytest

from client.training.evaluation import evaluate_threshold
from client.training.trainer_cache import TrainerCache
from tests.client.training.samples import ROWS, client_rows, expected_scores, version


def test_anomalies_are_events_above_the_quantile_of_held_out_scores() -> None:
    test = np.concatenate([ROWS[:60], ROWS[:1] + 10_000, ROWS[61:80]]).astype(np.float32)
    manifest = version(threshold={"quantile": 0.9})
    report = evaluate_threshold(manifest, client_rows(test=test), TrainerCache())
    assert report.threshold == pytest.approx(np.quantile(expected_scores(manifest, ROWS[90:]), 0.9), rel=1e-5)
    found = expected_scores(manifest, test)
    assert (report.events, report.anomalies) == (78, int((found > report.threshold).sum()))
    assert report.anomalies >= 3  # every window that holds the event


def test_a_fixed_threshold_replaces_the_quantile() -> None:
    report = evaluate_threshold(version(threshold={"value": 0.25}), client_rows(), TrainerCache())
    assert report.threshold == 0.25
    assert report.events == 98  # without test rows all rows are evaluated
