"""The Gaussian detector is the Mahalanobis distance, of the present inputs where some are missing."""

from __future__ import annotations

import numpy as np
import pytest

from common.detectors.gaussian import Gaussian, shrunk
from tests.common.detectors.test_contract import FEATURES, INPUTS, NORMAL, RECENCY, normal

EVEN = np.ones(INPUTS, np.float32)
MANY = 10**9
"""A prior beside which the windows do not count."""


def mixed(count: int) -> np.ndarray:
    """Independent windows of inputs that depend on each other, none of them nearly on the others alone."""
    rng = np.random.default_rng(5)
    mixing = np.eye(INPUTS) + 0.15 * rng.standard_normal((INPUTS, INPUTS))
    return (rng.standard_normal((count, INPUTS)) @ mixing).astype(np.float32)


WINDOWS = mixed(5000)
COVARIANCE = np.cov(WINDOWS.T, bias=True)


def distances(windows: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean squared Mahalanobis distances, by the covariance of the present inputs alone."""
    centred = (windows - WINDOWS.mean(axis=0))[:, present]
    inverse = np.linalg.inv(COVARIANCE[np.ix_(present, present)])
    return np.einsum("ni,ij,nj->n", centred, inverse, centred) / present.sum()


def test_the_score_is_the_squared_mahalanobis_distance() -> None:
    detector = Gaussian.of_covariance(COVARIANCE, WINDOWS, FEATURES, EVEN, MANY)
    expected = distances(WINDOWS, np.ones(INPUTS, np.bool_))
    np.testing.assert_allclose(detector.score_many(WINDOWS), expected, rtol=0.08)


@pytest.mark.parametrize("missing", [[0], [3, 4, 5], [1, 4, 7, 10], list(range(9))])
def test_with_missing_inputs_it_is_that_of_the_others(missing: list[int]) -> None:
    detector = Gaussian.of_covariance(COVARIANCE, WINDOWS, FEATURES, EVEN, MANY)
    windows, present = WINDOWS[:50].copy(), np.ones(INPUTS, np.bool_)
    windows[:, missing], present[missing] = np.nan, False
    np.testing.assert_allclose(detector.score_many(windows), distances(WINDOWS[:50], present), rtol=0.08)


def test_a_correlated_value_that_is_missing_adds_nothing_known() -> None:
    detector = Gaussian.fit(NORMAL, FEATURES, RECENCY, 1000)
    whole, part = NORMAL[:200], NORMAL[:200].copy()
    part[:, [INPUTS - 2, INPUTS - 5]] = np.nan
    assert float(detector.score_many(part).mean()) == pytest.approx(
        float(detector.score_many(whole).mean()), rel=0.2
    )


def test_errors_of_newer_events_weigh_more() -> None:
    detector = Gaussian.of_covariance(np.eye(INPUTS), WINDOWS, FEATURES, RECENCY, MANY)
    old, new = np.zeros((2, INPUTS), np.float32)
    old[0], new[-1] = 5, 5
    expected = RECENCY[-1] / RECENCY[0]
    assert detector.score_one(new) / detector.score_one(old) == pytest.approx(expected, rel=0.1)


def test_a_window_that_breaks_a_correlation_scores_higher_than_one_that_is_far_out_in_it() -> None:
    covariance = np.array([[1.0, 0.95], [0.95, 1.0]])
    windows = np.zeros((10, 2), np.float32)
    detector = Gaussian.of_covariance(covariance, windows, 2, np.ones(2, np.float32), MANY)
    broken, far = np.array([1, -1], np.float32), np.array([2, 2], np.float32)
    assert detector.score_one(broken) > 4 * detector.score_one(far)


def test_the_fewer_the_windows_the_more_equal_are_the_variances() -> None:
    spreads = []
    for count in (1, 10, 100, 10**6):
        values = np.linalg.eigvalsh(shrunk(COVARIANCE, count))
        spreads.append(values[-1] / values[0])
    assert spreads == sorted(spreads) and spreads[0] == pytest.approx(1)
    truth = np.linalg.eigvalsh(COVARIANCE)
    assert spreads[3] == pytest.approx(truth[-1] / truth[0], rel=1e-3)


def test_shrinkage_brings_few_windows_nearer_to_the_truth() -> None:
    few = np.cov(mixed(20).T, bias=True)
    assert np.linalg.norm(shrunk(few, 20) - COVARIANCE) < np.linalg.norm(few - COVARIANCE)


def test_a_covariance_of_no_window_can_be_used() -> None:
    """Covariances by lag need not be those of any windows: an eigenvalue may be below 0."""
    impossible = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    assert np.linalg.eigvalsh(impossible)[0] < 0
    windows = normal(50)[:, :3]
    detector = Gaussian.of_covariance(impossible, windows, 3, np.ones(3, np.float32), 1000)
    scores = detector.score_many(windows)
    assert np.isfinite(scores).all() and (scores >= 0).all()
