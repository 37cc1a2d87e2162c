from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.detection.scorer import _CAPACITY, Scorer
from common.detectors.contract import MAX_SCORE
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import reconstruct, scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import Settings
from tests.client.sample_versions import with_settings

ROWS = (np.random.default_rng(0).standard_normal((300, 3)) * [1, 10, 0.1] + [0, 5, 1]).astype(np.float32)


def manifest(window: int = 1, **changes: object) -> Manifest:
    plain = {"by": "fleet", "clip": None}
    given = Settings().with_values(model={"window": window, "hidden": (4, 2), **changes}, scaling=plain)
    architecture = Architecture.from_settings(given.model, 3)
    return Manifest(
        7,
        Schema(("a", "b", "c")),
        architecture,
        architecture.initial_weights(1),
        Moments.of(ROWS),
        VersionSettings.of(given),
    )


def expected(of: Manifest, rows: NDArray[np.float32], clip: float | None = None) -> NDArray[np.float32]:
    return scores(of.architecture, of.weights, Scaler.of(of.moments, clip).apply(rows), None, of.precision)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "elu", "linear"])
@pytest.mark.parametrize("window", [1, 4])
def test_event_by_event_is_what_all_rows_together_give(activation: str, window: int) -> None:
    version = manifest(window, activation=activation, output_activation=activation)
    scorer = Scorer(version)
    result = [scorer.score_one(row) for row in ROWS]
    assert np.isnan(result[: window - 1]).all()
    np.testing.assert_allclose(result[window - 1 :], expected(version, ROWS), rtol=1e-4)


@settings(deadline=None)
@given(st.sampled_from([1, 2, 5]), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_however_events_are_grouped_the_scores_are_the_same(window: int, sizes: list[int]) -> None:
    version = manifest(window)
    scorer, result, at = Scorer(version), [], 0
    for size in sizes:
        rows = ROWS[at : at + size]
        result.extend(
            [scorer.score_one(row) for row in rows] if size % 2 else scorer.score_many(rows).tolist()
        )
        at += len(rows)
    assert np.isnan(result[: min(window - 1, at)]).all()
    np.testing.assert_allclose(result[window - 1 :], expected(version, ROWS[:at]), rtol=1e-4)


def test_a_long_stream_does_not_run_out_of_room() -> None:
    version = manifest(3)
    scorer = Scorer(version)
    rows = np.tile(ROWS, (_CAPACITY // 100, 1))[: 2 * _CAPACITY + 10]
    result = [scorer.score_one(row) for row in rows[:_CAPACITY]]
    for start in range(_CAPACITY, len(rows), 256):
        result.extend(scorer.score_many(rows[start : start + 256]).tolist())
    np.testing.assert_allclose(result[2:], expected(version, rows), rtol=1e-4)


def test_inputs_are_clipped_if_the_version_clips() -> None:
    given = with_settings(manifest(), scaling={"by": "fleet", "clip": 1.5})
    np.testing.assert_allclose(Scorer(given).score_many(ROWS[:9]), expected(given, ROWS[:9], 1.5), rtol=1e-4)
    scorer = Scorer(given)
    np.testing.assert_allclose(
        [scorer.score_one(r) for r in ROWS[:9]], expected(given, ROWS[:9], 1.5), rtol=1e-4
    )


def test_windows_may_continue_earlier_rows() -> None:
    version = manifest(3)
    after = Scorer(version)
    after.follow(ROWS[:10])
    np.testing.assert_allclose(after.score_one(ROWS[10]), expected(version, ROWS[8:11])[0], rtol=1e-4)
    few = Scorer(version)
    few.follow(ROWS[:1])
    assert np.isnan(few.score_one(ROWS[1]))
    assert few.score_one(ROWS[2]) > 0


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30])
def test_an_event_far_off_scores_the_largest_and_spoils_only_its_windows(value: float) -> None:
    version = manifest(2)
    wild = ROWS[:6].copy()
    wild[2, 1] = value
    with np.errstate(over="ignore", invalid="ignore"):
        one = Scorer(version)
        singly = np.array([one.score_one(row) for row in wild], np.float32)
        together = Scorer(version).score_many(wild)
    for result in (singly, together):
        assert (result[2:4] == np.float32(MAX_SCORE)).all()
        np.testing.assert_allclose(result[[1, 4, 5]], expected(version, ROWS[:6])[[0, 3, 4]], rtol=1e-4)
    with np.errstate(over="ignore", invalid="ignore"):
        why = one.explain(wild[1:3])
    assert why.share.argmax() == 1
    assert np.isfinite(why.expected).all()


@pytest.mark.parametrize("window", [1, 3])
def test_shares_of_the_error_sum_to_one_and_name_the_feature_that_is_off(window: int) -> None:
    version = manifest(window)
    rows = ROWS[:window].copy()
    rows[-1, 2] += 100
    why = Scorer(version).explain(rows)
    assert why.share.sum() == pytest.approx(1, abs=1e-5)
    assert why.share.argmax() == 2
    assert why.share[2] > 0.9


def test_a_feature_that_leads_others_astray_is_named_although_the_score_is_cut_off() -> None:
    plain = manifest()
    weights = {name: np.zeros_like(values) for name, values in plain.weights.items()}
    weights["dense_0/kernel"][0, 0] = weights["dense_1/kernel"][0, 0] = 1
    weights["dense_2/kernel"][0, 2] = 0.5  # the third feature is expected to be half of the first
    version = replace(
        with_settings(plain, scaling={"by": "fleet", "clip": 10.0}),
        weights=weights,
        residuals=Residuals.of(np.array([[1.0, 0.2, 0.002]])),
    )
    rows = ROWS[:1].copy()
    rows[0, 0] += 1000
    cut = Scaler.of(plain.moments, 10.0).apply(rows)
    scored = (np.square(reconstruct(plain.architecture, weights, cut) - cut) * version.precision)[0]
    assert scored.argmax() == 2  # of the score, the one that was led astray has the larger part
    assert Scorer(version).explain(rows).share[0] > 0.9


def test_what_is_expected_is_in_the_features_own_units() -> None:
    version = manifest()
    layers = version.architecture.shapes
    weights = {name: np.zeros(shape, np.float32) for name, shape in layers.items()}
    zero = Manifest(1, version.schema, version.architecture, weights, version.moments, version.settings)
    np.testing.assert_allclose(Scorer(zero).explain(ROWS[:1]).expected, version.moments.mean, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 3])
def test_an_input_weighs_what_its_usual_error_says(window: int) -> None:
    plain = manifest(window)
    squares = np.tile(np.arange(1.0, 3 * window + 1), (5, 1))
    version = replace(plain, residuals=Residuals.of(squares))
    wanted = scores(
        plain.architecture, plain.weights, Scaler.of(plain.moments).apply(ROWS), None, version.precision
    )
    scorer = Scorer(version)
    np.testing.assert_allclose(
        Scorer(version).score_many(ROWS[:200])[window - 1 :], wanted[: 201 - window], rtol=1e-4
    )
    np.testing.assert_allclose([scorer.score_one(r) for r in ROWS][window - 1 :], wanted, rtol=1e-4)
    assert not np.allclose(wanted, expected(plain, ROWS), rtol=0.05)


def test_of_the_events_in_a_window_the_newest_weighs_most() -> None:
    plain = manifest(3)
    version = with_settings(plain, scoring={"decay": 0.5})
    # From before there was a decay: its fleet's scores are plain means.
    old = with_settings(plain, scoring={})
    architecture, rows = plain.architecture, Scaler.of(plain.moments).apply(ROWS[:3])
    squares = np.square(reconstruct(architecture, plain.weights, rows.reshape(1, -1)) - rows.reshape(1, -1))
    by_event = squares.reshape(3, -1).mean(axis=1)
    wanted = by_event @ [1, 2, 4] / 7
    assert Scorer(version).score_many(ROWS[:3])[-1] == pytest.approx(wanted, rel=1e-5)
    assert Scorer(old).score_many(ROWS[:3])[-1] == pytest.approx(by_event.mean(), rel=1e-5)


def test_shares_are_of_the_weighed_error() -> None:
    plain = manifest()
    version = replace(plain, residuals=Residuals.of(np.array([[1e6, 1.0, 1.0]])))
    before, after = Scorer(plain).explain(ROWS[:1]), Scorer(version).explain(ROWS[:1])
    weighed = before.share * version.precision
    np.testing.assert_allclose(after.share, weighed / weighed.sum(), rtol=1e-4)
    assert after.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(after.expected, before.expected)
