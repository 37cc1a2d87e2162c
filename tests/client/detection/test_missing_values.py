"""Rows with missing values: scores and explanations are those of what remains."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from client.buffers.recent_events import ABNORMAL
from client.detection.adaptive_threshold import AdaptiveThreshold
from client.detection.detector import Detector
from client.detection.event_window import EventWindow
from client.detection.scorer import Scorer
from common.detectors.contract import MAX_SCORE
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.residuals import Residuals
from common.model.scoring import reconstruct, version_scores
from common.settings import DataSettings, LiveSettings
from tests.client import sample_versions as samples

Rows = NDArray[np.float32]
ROWS = samples.rows(40, seed=3)
MASKS = hnp.arrays(np.bool_, (len(ROWS), 3), elements=st.booleans())


def version(window: int) -> Manifest:
    """A version whose inputs have different weights in a score."""
    plain = samples.version(7, window)
    squares = np.tile(np.linspace(0.5, 3, 3 * window), (5, 1))
    return samples.replace(plain, residuals=Residuals.of(squares))


def masked(missing: NDArray[np.bool_]) -> Rows:
    return np.where(missing, np.float32(np.nan), ROWS)


def plain_score(of: Manifest, window: Rows) -> float:
    """The score of one window, number by number."""
    if np.isnan(window[-1]).all():
        return math.nan
    scaled = Scaler.of(of.moments).apply(window).reshape(1, -1)
    filled = np.nan_to_num(scaled)
    output = reconstruct(of.architecture, of.weights, filled)[0].tolist()
    present = [i for i, value in enumerate(scaled[0].tolist()) if value == value]
    weights = of.precision.tolist()
    error = sum(weights[i] * (output[i] - float(filled[0, i])) ** 2 for i in present)
    return error / sum(weights[i] for i in present) * sum(weights) / len(weights)


def event_at(detector: Detector, slot: int) -> EventWindow:
    """Return the event in a slot of the ring, with a score five times its threshold."""
    assert detector.active is not None
    return EventWindow(
        samples.SCHEMA.features, detector.recent, detector.active.scorer, slot, slot, 0.0, 5.0,
        AdaptiveThreshold(1.0), 3,
    )  # fmt: skip


@pytest.mark.parametrize("window", [1, 3])
@settings(deadline=None, max_examples=40)
@given(missing=MASKS)
def test_live_and_batch_scores_are_those_of_the_values_that_are_there(
    window: int, missing: NDArray[np.bool_]
) -> None:
    given_, rows = version(window), masked(missing)
    expected = [plain_score(given_, rows[end - window : end]) for end in range(window, len(rows) + 1)]
    single, batch, apart = Scorer(given_), Scorer(given_), Scorer(given_)
    singly = [single.score_one(row) for row in rows][window - 1 :]
    windows = [apart.score_window(rows[end - window : end]) for end in range(window, len(rows) + 1)]
    together = np.concatenate([batch.score_many(rows[:17]), batch.score_many(rows[17:])])[window - 1 :]
    files = version_scores(given_, Scaler.of(given_.moments).apply(rows))
    for scores in (singly, windows, together, files):
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
    np.testing.assert_allclose(singly, windows, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(missing=MASKS)
def test_missing_values_change_no_bit_of_the_scores_of_windows_without_them(
    missing: NDArray[np.bool_],
) -> None:
    given_, rows = version(3), masked(missing)
    whole = ~np.isnan(np.lib.stride_tricks.sliding_window_view(rows, 3, axis=0)).any(axis=(1, 2))
    for method in ("score_one", "score_many"):
        with_gaps, without = Scorer(given_), Scorer(given_)
        if method == "score_one":
            scores = np.array([with_gaps.score_one(row) for row in rows])
            wanted = np.array([without.score_one(row) for row in ROWS])
        else:
            scores, wanted = with_gaps.score_many(rows), without.score_many(ROWS)
        assert np.array_equal(scores[2:][whole], wanted[2:][whole])


def test_a_missing_feature_costs_nothing_of_the_scores_size() -> None:
    given_ = samples.version(7, 3)
    rows = samples.rows(2000, seed=4)
    complete = Scorer(given_).score_many(rows[:2000])[2:]
    rows[:, 1] = np.nan
    assert np.mean(Scorer(given_).score_many(rows)[2:]) == pytest.approx(complete.mean(), rel=0.3)


def test_an_event_without_any_value_has_no_score_and_the_next_ones_have() -> None:
    rows = ROWS[:8].copy()
    rows[4] = np.nan
    scorer = Scorer(version(3))
    scores = np.array([scorer.score_one(row) for row in rows])
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 1, 4]
    assert np.array_equal(np.isnan(Scorer(version(3)).score_many(rows)), np.isnan(scores))
    after = Scorer(version(3))
    after.follow(rows[:5])
    assert after.score_one(rows[5]) == pytest.approx(scores[5], rel=1e-5)


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_an_overflow_beside_a_missing_value_scores_the_largest(value: float) -> None:
    rows = ROWS[:3].copy()
    rows[2] = [np.nan, value, 1]
    with np.errstate(over="ignore", invalid="ignore"):
        assert Scorer(version(3)).score_window(rows) == MAX_SCORE
        assert Scorer(version(3)).score_many(rows)[2] == np.float32(MAX_SCORE)


def test_a_window_that_is_scored_apart_leaves_the_stream_as_it_is() -> None:
    one, other = Scorer(version(3)), Scorer(version(3))
    for row in ROWS[:5]:
        one.score_one(row)
        other.score_one(row)
    one.score_window(ROWS[10:13])
    assert one.score_one(ROWS[5]) == other.score_one(ROWS[5])


def test_a_missing_feature_has_no_share_of_the_error() -> None:
    rows = ROWS[:3].copy()
    rows[:, 1] = np.nan
    rows[2, 2] = np.nan
    rows[1, 2] += 50
    why = Scorer(version(3)).explain(rows)
    assert why.share[1] == 0
    assert why.share.sum() == pytest.approx(1)
    assert why.share.argmax() == 2
    # The newest event lacks the third feature: it is shown as it was in the event before.
    assert why.value[[0, 2]].tolist() == [rows[2, 0], rows[1, 2]]
    assert np.isnan(why.value[1])
    assert np.isfinite(why.expected).all()
    filled = Scaler.of(version(3).moments).apply(rows)
    output = reconstruct(version(3).architecture, version(3).weights, np.nan_to_num(filled).reshape(1, -1))
    before = output.reshape(3, 3)[1] * version(3).moments.std + version(3).moments.mean
    assert why.expected[2] == pytest.approx(before[2], rel=1e-4)


def test_no_cause_of_an_alert_is_a_missing_feature() -> None:
    detector = Detector("edge", samples.SCHEMA, DataSettings(), LiveSettings(explain=3))
    detector.activate(samples.version(1, 1), threshold=1e-6)
    detector.recent.row_views[0][:] = [1.0, np.nan, 100.0]
    event = event_at(detector, 0)
    alert, explaining = event.explain_without(())
    assert explaining == (2,)
    assert [cause.feature for cause in alert.causes] == ["c", "a"]


def test_a_score_can_be_of_some_features_alone_while_the_model_reads_all() -> None:
    given_ = version(2)
    window = np.array([[0.5, np.nan, 1.1], [6.0, 5.0, 3.0]], np.float32)
    scaled = np.nan_to_num(Scaler.of(given_.moments).apply(window)).reshape(1, -1)
    error = np.square(reconstruct(given_.architecture, given_.weights, scaled) - scaled)[0] * given_.precision
    present = [0, 2, 3, 4, 5]
    expected = error[[0, 3, 4]].sum() / given_.precision[present].sum() * given_.precision.mean()
    assert Scorer(given_).score_of_others(window, (2,)) == pytest.approx(expected, rel=1e-4)
    assert Scorer(given_).score_of_others(window, ()) == pytest.approx(
        Scorer(given_).score_window(window), rel=1e-4
    )
    assert math.isnan(Scorer(given_).score_of_others(np.full((2, 3), np.nan, np.float32), ()))


def test_usual_scores_with_masked_features_are_those_of_normal_windows() -> None:
    detector = Detector("edge", samples.SCHEMA, DataSettings(), LiveSettings())
    detector.activate(version(3), threshold=1e9)
    detector.step(samples.lines(ROWS), 0.0)
    detector.recent.flags[20] = ABNORMAL
    event = event_at(detector, 40)
    hidden = ROWS.copy()
    hidden[:, 1] = np.nan
    scores = [plain_score(version(3), hidden[end - 2 : end + 1]) for end in range(2, 40) if end != 20]
    assert event.usual_without((1,)) == pytest.approx(max(scores), rel=1e-4)


def test_there_are_no_usual_scores_before_the_first_whole_window() -> None:
    detector = Detector("edge", samples.SCHEMA, DataSettings(), LiveSettings())
    detector.activate(version(3), threshold=1e9)
    detector.step(samples.lines(ROWS[:2]), 0.0)
    event = event_at(detector, 2)
    assert event.usual_without((1,)) == 0.0
