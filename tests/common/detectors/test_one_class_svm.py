"""The one-class SVM finds the best hyperplane, and learns the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from common.detectors.contract import DetectorState, DetectorStateError
from common.detectors.one_class_svm import FREQUENCIES, NU, OneClassSvm, _learned
from tests.common.detectors.test_contract import FEATURES, INPUTS, NORMAL, RECENCY

SVM = OneClassSvm.fit(NORMAL, FEATURES, RECENCY, 1000)


def test_the_normal_minimises_what_it_is_said_to() -> None:
    """Its objective is not larger than at normals around it, with the best offset of each."""
    rng = np.random.default_rng(0)
    points = np.abs(rng.standard_normal((500, 4)))
    points += np.array([1.0, 0.5, 0.0, 2.0])

    def objective(normal: np.ndarray) -> float:
        values = points @ normal
        offset = np.quantile(values, NU)
        return float(NU / 2 * normal @ normal - NU * offset + np.maximum(offset - values, 0).mean())

    found = _learned(points, np.random.default_rng(1))
    around = [objective(found * scale + rng.standard_normal(4) * 0.05) for scale in (0.8, 0.9, 1.1, 1.3)]
    assert objective(found) <= min(around) + 0.002


def test_the_same_windows_give_the_same_detector() -> None:
    again = OneClassSvm.fit(NORMAL, FEATURES, RECENCY, 1000)
    assert again.score_many(NORMAL).tolist() == SVM.score_many(NORMAL).tolist()


def test_windows_of_another_kind_have_higher_scores_than_all_but_few_normal_ones() -> None:
    other = np.random.default_rng(2).standard_normal((200, INPUTS)).astype(np.float32) * 3
    limit = np.quantile(SVM.score_many(NORMAL), 0.99)
    assert (SVM.score_many(other) > limit).mean() > 0.95


@pytest.mark.parametrize(("name", "value"), [
    ("phases", np.zeros(FREQUENCIES - 1, np.float32)), ("normal", np.zeros(1, np.float32)),
    ("unit", np.zeros(2, np.float32)), ("unit", np.ones(3, np.float32)),
])  # fmt: skip
def test_a_state_of_no_such_machine_is_refused(name: str, value: np.ndarray) -> None:
    state = SVM.state
    with pytest.raises(DetectorStateError):
        OneClassSvm.restored(DetectorState(state.by_input, {**state.other, name: value}), INPUTS, FEATURES)
