"""VUS-PR compared with values from the paper's program, and computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies
from sklearn.metrics import average_precision_score

from flockwatch.quality.vus import runs, soft_labels, vus_pr

LABELS = np.isin(np.arange(20), (5, 6, 7, 15))
SCORES = np.array([7 * i % 20 for i in range(20)]) / 20


def test_it_equals_the_value_of_the_papers_program() -> None:
    # PyPI `vus` 0.0.6: `metricor().RangeAUC_volume_opt_mem(labels, scores, 4, thre=20)`, so that each score
    # is a threshold.
    assert vus_pr(LABELS, SCORES, max_buffer=4) == pytest.approx(0.3733324262985845, abs=1e-12)


def test_one_buffer_by_hand() -> None:
    """One anomaly at event 2 with a buffer of 2: events 1 and 3 count sqrt(1 - 1/2)."""
    labels = np.array([False, False, True, False, False])
    scores = np.array([0.1, 0.8, 0.6, 0.2, 0.9])
    soft = np.sqrt(0.5)
    assert soft_labels(labels, runs(labels), 2).tolist() == pytest.approx([0, soft, 1, soft, 0])
    # Flagged in turn: event 4 (0), 1 (soft), 2 (1), 3 (soft), 0 (0). Positives are 1 and half of what is
    # flagged in the buffer; the one anomaly exists from the second threshold on.
    recalls = [0.0, soft / (1 + soft / 2), min(1.0, (1 + soft) / (1 + soft / 2)), 1.0, 1.0]
    precisions = [0.0, soft / 2, (1 + soft) / 3, (1 + 2 * soft) / 4, (1 + 2 * soft) / 5]
    with_buffer = sum(np.diff([0.0, *recalls]) * precisions)
    # Buffers of 0 and 1 reach nowhere: plain average precision.
    plain = average_precision_score(labels, scores)
    assert vus_pr(labels, scores, max_buffer=2) == pytest.approx((2 * plain + with_buffer) / 3)


def test_without_tolerance_and_with_one_anomaly_it_is_average_precision() -> None:
    labels = np.arange(50) == 20
    scores = np.random.default_rng(0).random(50)
    assert vus_pr(labels, scores, max_buffer=0) == pytest.approx(average_precision_score(labels, scores))


def test_it_tolerates_a_late_detector_and_average_precision_does_not() -> None:
    labels = np.isin(np.arange(300), range(100, 110))
    late = np.isin(np.arange(300), range(105, 115)).astype(float)
    far = np.isin(np.arange(300), range(200, 210)).astype(float)
    assert vus_pr(labels, late) > 1.2 * average_precision_score(labels, late)
    assert vus_pr(labels, late) > 4 * vus_pr(labels, far)


@given(strategies.lists(strategies.tuples(strategies.booleans(), strategies.integers(0, 5)), min_size=2))
def test_it_lies_between_0_and_1_and_depends_on_ranks_alone(events: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in events])
    labels[0] = True
    scores = np.array([float(score) for _, score in events])
    value = vus_pr(labels, scores, max_buffer=5)
    assert 0 <= value <= 1 + 1e-9
    assert vus_pr(labels, np.exp(scores), max_buffer=5) == pytest.approx(value)


def test_perfect_scores_give_1() -> None:
    assert vus_pr(LABELS, LABELS.astype(float), max_buffer=0) == 1.0
