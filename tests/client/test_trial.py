from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.buffer import Kept
from client.trial import ENOUGH, objection, rescored
from common.architecture import Architecture
from common.schema import Schema
from common.scoring import scores
from tests.client.versions import rows, version

LIVE = version(1)
NORMAL = np.full(500, 1.0, np.float32)


def of(found: np.ndarray, threshold: float = 10.0, live_scores: np.ndarray = NORMAL) -> str | None:
    return objection(version(2), found, threshold, LIVE, live_scores, 10.0)


def test_a_version_that_scores_as_before_is_taken() -> None:
    assert of(NORMAL * 1.5) is None
    assert of(NORMAL * 0.01) is None


def test_an_error_much_larger_than_before_is_an_objection() -> None:
    wrong = of(NORMAL * 3)
    assert wrong is not None and "3.0 times that of version 1" in wrong


def test_scores_that_are_not_finite_are_an_objection() -> None:
    found = NORMAL.copy()
    found[3:5] = np.nan
    assert "2 of 500" in str(of(found))


def test_alerts_on_normal_events_are_an_objection_unless_they_came_before_too() -> None:
    found = np.where(np.arange(500) < 25, 20.0, 0.5).astype(np.float32)
    assert "alerts on 5.0%" in str(of(found))
    assert of(found, live_scores=found) is None


def test_too_few_events_are_no_ground_for_an_objection() -> None:
    assert of(NORMAL[: ENOUGH - 1] * 100) is None
    assert of(NORMAL[:0]) is None


def test_a_first_version_is_measured_alone() -> None:
    assert objection(LIVE, NORMAL, 10.0, None, NORMAL[:0], 0.0) is None
    assert "alerts on 100.0%" in str(objection(LIVE, NORMAL, 0.5, None, NORMAL[:0], 0.0))


def test_other_features_are_an_objection() -> None:
    other = replace(version(2), schema=Schema(("a", "b", "x")))
    assert "a, b, x" in str(objection(other, NORMAL, 10.0, LIVE, NORMAL, 10.0))


@pytest.mark.parametrize("window", [1, 4])
def test_windows_across_a_break_are_not_rescored(window: int) -> None:
    given, events = version(1, window=window), rows(50)
    breaks = np.zeros(50, np.bool_)
    breaks[[0, 20]] = True
    found = rescored(given, Kept(events, breaks))
    architecture: Architecture = given.architecture
    scaled = (events - given.moments.mean.astype(np.float32)) / np.sqrt(given.moments.variance).astype(
        np.float32
    )
    parts = [scores(architecture, given.weights, scaled[a:b]) for a, b in ((0, 20), (20, 50))]
    np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-3)
    assert len(found) == 50 - 2 * (window - 1)
