from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.watch.changes import Recording
from benchmarks.watch.rivals import IncidentRule, replay_rival
from common.settings import Settings
from flockwatch.quality import baselines

SETTINGS = Settings().with_values(live={"release": 1.0, "end_after": 2}, model={"window": 2})
DAY_S = 86400.0


def test_scores_are_grouped_by_the_settings_of_the_live_detector() -> None:
    live = {"start_after": 1, "release": 0.5, "end_after": 2}
    rule = IncidentRule(Settings().with_values(live=live).live, window=1, rate=1.0)
    for index, score in enumerate([0.1, 2.0, 0.7, 0.7, 0.1, 3.0, 0.1, 0.1, 0.1, 4.0]):
        rule.add(index, score, 1.0)
    assert rule.spans == [slice(1, 6), slice(9, 10)]


def test_by_default_a_rivals_incidents_start_as_those_of_the_live_detector() -> None:
    rule = IncidentRule(Settings().live, window=1, rate=1.0)
    for index, score in enumerate([1.5, 0.1, 0.1, 0.1, 1.5, 1.5, 0.1, 0.1, 0.1, 2.5]):
        rule.add(index, score, 1.0)
    assert rule.spans == [slice(4, 6), slice(9, 10)]


@pytest.mark.parametrize("baseline", [baselines.pca, baselines.isolation_forest])
def test_a_rival_tells_a_fault_after_its_warm_up(baseline: baselines.Baseline) -> None:
    rng = np.random.default_rng(1)
    causes = rng.normal(size=(600, 2))
    rows = (causes @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(600, 4))).astype(np.float32)
    rows[500:505] += np.array([25, -25, 25, -25], np.float32)
    recording = Recording("m", ("a", "b", "c", "d"), rows, np.zeros(600, np.bool_), 0)
    result = replay_rival(baseline, recording, 120, SETTINGS, DAY_S / 50)
    assert all(incident.span.start >= 120 for incident in result)
    assert any(500 <= incident.span.start < 505 for incident in result)


def test_a_rival_does_not_learn_from_a_short_incident_but_from_a_lasting_change() -> None:
    """Its scores are the value itself, and its training rows are kept to look at."""
    seen: list[float] = []

    def values(training: NDArray[np.float32], settings: Settings, seed: int) -> baselines.Score:
        seen.append(float(training.max()))
        return lambda inputs: np.abs(inputs).max(axis=1)

    rows = np.random.default_rng(2).uniform(-1, 1, (1000, 1)).astype(np.float32)
    rows[300:303] = 1000.0
    recording = Recording("m", ("a",), rows, np.zeros(1000, np.bool_), 0)
    result = replay_rival(values, recording, 100, SETTINGS, DAY_S / 50)
    assert any(i.span.start == 300 for i in result)
    assert max(seen) < 3
    rows[300:] = rows[300:] % 1 + 1000.0
    (lasting,) = (
        i for i in replay_rival(values, recording, 100, SETTINGS, DAY_S / 50) if i.span.start == 300
    )
    assert 350 <= lasting.span.stop < 500  # after a day it is normal
