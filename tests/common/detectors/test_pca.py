"""Principal components from a covariance are those of the windows that it is of."""

from __future__ import annotations

import numpy as np

from common.detectors.contract import blended_precision
from common.detectors.pca import PrincipalComponents
from tests.common.detectors.test_contract import FEATURES, NORMAL, RECENCY, normal

COVARIANCE = np.cov(NORMAL.T, bias=True)


def test_the_covariance_of_windows_gives_the_detector_of_these_windows() -> None:
    same = PrincipalComponents.of_covariance(COVARIANCE, NORMAL, FEATURES, RECENCY, 0)
    plain = PrincipalComponents.fit(NORMAL, FEATURES, RECENCY, 0)
    np.testing.assert_allclose(same.score_many(NORMAL), plain.score_many(NORMAL), rtol=1e-3)


def test_few_windows_weight_errors_as_the_covariance_does() -> None:
    made = [
        PrincipalComponents.of_covariance(COVARIANCE, windows, FEATURES, RECENCY, prior)
        for windows, prior in ((normal(20), 10**9), (NORMAL, 1))
    ]
    few, many = (detector.state.by_input["precision"] for detector in made)
    np.testing.assert_allclose(few, many, rtol=0.1)


def test_an_expected_error_replaces_the_mean_of_all_inputs() -> None:
    squares, expected = np.ones((10, 2), np.float32), np.array([4.0, 16.0])
    recency = np.ones(2, np.float32)
    flat, known = (blended_precision(squares, recency, 10**9, e) for e in (None, expected))
    np.testing.assert_allclose(flat, [1, 1], rtol=1e-3)
    np.testing.assert_allclose(known, [1 / 4.1, 1 / 16.1], rtol=1e-3)
    own = blended_precision(squares, recency, 10, expected)
    np.testing.assert_allclose(own, np.sqrt(known / 1.01), rtol=1e-3)
