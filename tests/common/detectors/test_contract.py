"""Obligations of every detector family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from common.detectors.autoencoder import Autoencoder
from common.detectors.choice import AUTOENCODER, MEMBERS, OF_COVARIANCES
from common.detectors.contract import (
    MAX_SCORE,
    DetectorState,
    DetectorStateError,
    OwnDetector,
    WindowDetector,
)
from common.detectors.ensemble import Ensemble
from common.detectors.tail import CalibratedTail
from common.model.weights import Architecture

FEATURES, WINDOW = 3, 4
INPUTS = FEATURES * WINDOW
Floats = NDArray[np.float32]


def normal(count: int, seed: int = 0) -> Floats:
    """Windows whose features depend on each other and on the events before, scaled."""
    rng = np.random.default_rng(seed)
    events = np.cumsum(rng.standard_normal((count + WINDOW, 2)), axis=0) @ rng.standard_normal((2, FEATURES))
    events = (events - events.mean(axis=0)) / events.std(axis=0) + 0.1 * rng.standard_normal(events.shape)
    at = np.arange(count)[:, None] + np.arange(WINDOW)
    return events[at].reshape(count, INPUTS).astype(np.float32)


NORMAL = normal(600)
RECENCY = Architecture(FEATURES, WINDOW).recency_weights(0.8)


def fit(name: str, windows: Floats, features: int, recency: Floats, prior: int) -> OwnDetector:
    if name in OF_COVARIANCES:
        covariance = np.atleast_2d(np.cov(windows.T, bias=True))
        return OF_COVARIANCES[name].of_covariance(covariance, windows, features, recency, prior)
    return MEMBERS[name].fit(windows, features, recency, prior)


def fitted(name: str) -> WindowDetector:
    if name == AUTOENCODER:
        shape = Architecture(FEATURES, WINDOW, hidden=(5,))
        return Autoencoder(shape.layers(shape.initial_weights(1)), FEATURES, RECENCY)
    if name == "ensemble":
        members = {member: fitted(member) for member in (AUTOENCODER, *MEMBERS)}
        tails = {n: CalibratedTail.of(m.score_many(NORMAL)) for n, m in members.items()}
        return Ensemble(members, tails, dict.fromkeys(members, 1 / len(members)))
    return fit(name, NORMAL, FEATURES, RECENCY, 1000)


each = pytest.mark.parametrize("detector", [fitted(n) for n in (AUTOENCODER, *MEMBERS, "ensemble")],
                               ids=[AUTOENCODER, *MEMBERS, "ensemble"])  # fmt: skip
each_own = pytest.mark.parametrize("name", MEMBERS)


def far() -> Floats:
    """A normal window, of which the second feature of the newest event is far from usual."""
    window = NORMAL[100].copy()
    window[INPUTS - 2] += 8
    return window


@each
def test_one_window_has_the_score_that_it_has_among_many(detector: WindowDetector) -> None:
    windows = NORMAL[:50].copy()
    windows[7, 3], windows[9, :5] = np.nan, np.nan
    one_by_one = [detector.score_one(window) for window in windows]
    np.testing.assert_allclose(detector.score_many(windows), one_by_one, rtol=2e-3, atol=1e-4)


@each
def test_a_window_far_from_usual_has_a_higher_score(detector: WindowDetector) -> None:
    assert detector.score_one(far()) > 3 * detector.score_one(NORMAL[100])


@each
def test_a_window_without_its_newest_event_has_no_score(detector: WindowDetector) -> None:
    windows = NORMAL[:3].copy()
    windows[1, -FEATURES:] = np.nan
    scores = detector.score_many(windows)
    assert np.isnan(scores).tolist() == [False, True, False]
    assert np.isnan(detector.score_one(windows[1]))


@each
def test_a_missing_value_is_left_out(detector: WindowDetector) -> None:
    window = far()
    abnormal = detector.score_one(window)
    window[INPUTS - 2] = np.nan
    assert 0 <= detector.score_one(window) < abnormal / 2


@each
def test_no_score_is_above_the_largest_one(detector: WindowDetector) -> None:
    huge = np.full((2, INPUTS), 1e30, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert (detector.score_many(huge) <= np.float32(MAX_SCORE)).all()
        assert detector.score_one(huge[0]) <= MAX_SCORE


@each
def test_the_input_that_is_unusual_contributes_most(detector: WindowDetector) -> None:
    window = far()
    parts = detector.contributions(window, window)
    assert parts.argmax() == INPUTS - 2
    assert (parts >= 0).all() and np.isfinite(parts).all()


@each
def test_a_missing_input_contributes_nothing(detector: WindowDetector) -> None:
    window = far()
    window[2] = np.nan
    parts = detector.contributions(window, window)
    assert parts[2] == 0 and parts.sum() > 0


@each_own
def test_its_state_makes_the_same_detector(name: str) -> None:
    detector = fit(name, NORMAL, FEATURES, RECENCY, 1000)
    again = MEMBERS[name].restored(detector.state, INPUTS, FEATURES)
    assert again.score_many(NORMAL).tolist() == detector.score_many(NORMAL).tolist()


@each_own
def test_the_usual_score_is_about_one(name: str) -> None:
    detector = fit(name, NORMAL, FEATURES, RECENCY, 1)
    assert 0.5 < float(detector.score_many(NORMAL).mean()) < 1.5


@each_own
def test_the_state_of_inputs_in_another_order_gives_the_same_scores(name: str) -> None:
    detector, order = fit(name, NORMAL, FEATURES, RECENCY, 1000), np.arange(INPUTS)[::-1]
    turned = MEMBERS[name].restored(detector.state.take(order), INPUTS, FEATURES)
    result = turned.score_many(np.ascontiguousarray(NORMAL[:, order]))
    np.testing.assert_allclose(result, detector.score_many(NORMAL), rtol=1e-3, atol=1e-4)


@each_own
@pytest.mark.parametrize("break_it", [
    lambda array: array[..., :-1], lambda array: array * np.float32(np.nan), lambda array: array[:0],
    lambda array: array.astype(np.float64), lambda array: np.stack([array] * 200),
])  # fmt: skip
def test_a_damaged_state_is_refused(name: str, break_it: Callable[[Floats], Floats]) -> None:
    state = fit(name, NORMAL, FEATURES, RECENCY, 1000).state
    for key, array in state.by_input.items():
        damaged = DetectorState({**state.by_input, key: break_it(array)}, state.other)
        with pytest.raises(DetectorStateError, match=key):
            MEMBERS[name].restored(damaged, INPUTS, FEATURES)
    with pytest.raises(DetectorStateError, match="missing"):
        MEMBERS[name].restored(DetectorState(), INPUTS, FEATURES)


@each_own
@pytest.mark.parametrize("windows", [
    np.zeros((50, INPUTS), np.float32), normal(2), normal(INPUTS // 2), np.ones((3, 1), np.float32),
], ids=["constant", "two", "fewer than inputs", "one input"])  # fmt: skip
def test_any_rows_can_be_fitted(name: str, windows: Floats) -> None:
    inputs = windows.shape[1]
    features = min(FEATURES, inputs)
    detector = fit(name, windows, features, np.ones(inputs, np.float32), 1000)
    MEMBERS[name].restored(detector.state, inputs, features)
    scores = detector.score_many(windows + np.float32(0.5))
    assert np.isfinite(scores).all() and (scores >= 0).all()
