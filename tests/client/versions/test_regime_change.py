from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from client.buffers.regime import Move
from client.buffers.training_buffer import BufferedRows
from client.versions.regime_change import adapt, lasting_scores
from client.versions.trial import buffer_scores
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from tests.client.sample_versions import rows, version

BEFORE = np.array([0, 5, 1], np.float32)
SHIFT = np.array([0, 90, 0])


def buffered(events: NDArray[np.floating]) -> BufferedRows:
    return BufferedRows(events.astype(np.float32), np.arange(len(events)) == 0)


NORMAL = buffered(rows(1000, seed=1))


def given(**settings: object) -> Manifest:
    """A version that reconstructs every row as the mean, so that a usual score is 1."""
    return replace(version(window=3, scale=0.0, **settings), moments=Moments.of(rows(2000)))


def median(manifest: Manifest, events: BufferedRows) -> float:
    return float(np.median(buffer_scores(manifest, events)))


def test_a_shift_of_one_feature_moves_its_mean_and_nothing_else() -> None:
    lasting = buffered(rows(600, seed=2) + SHIFT)
    adapted = adapt(given(), lasting, NORMAL, (1, 2))
    assert list(adapted.moves) == [1]
    assert adapted.moves[1].factor == 1
    assert adapted.moves[1].offset == pytest.approx(90, abs=3)
    assert median(adapted.manifest, lasting) == pytest.approx(median(given(), NORMAL), rel=0.1)
    np.testing.assert_allclose(adapted.manifest.moments.std, given().moments.std)
    np.testing.assert_array_equal(adapted.manifest.moments.mean[[0, 2]], given().moments.mean[[0, 2]])


def test_the_levels_of_several_features_are_found_though_the_model_relates_them() -> None:
    generator = np.random.default_rng(3)
    cause = generator.standard_normal((4000, 1))
    events = cause @ np.array([[1.0, 1.0, 1.0]]) + 0.1 * generator.standard_normal((4000, 3))
    plain = version(model={"window": 1, "hidden": (1,), "activation": "linear"})
    third = np.full((3, 1), 1 / 3, np.float32)
    weights = dict(plain.weights) | {"dense_0/kernel": third, "dense_1/kernel": 3 * third.T}
    related = replace(plain, weights=weights, moments=Moments.of(events.astype(np.float32)))
    lasting = buffered(events + np.array([2.0, 1.0, 0.0]))
    adapted = adapt(related, lasting, buffered(events), (0, 1), median(related, buffered(events)))
    offsets = [adapted.moves.get(i, Move(1.0, 0.0)).offset for i in range(3)]
    # A shift of all three by the same amount is one of their common cause, and no error.
    assert [offset - offsets[2] for offset in offsets[:2]] == pytest.approx([2.0, 1.0], abs=0.05)


def test_a_fault_within_the_change_does_not_move_the_level() -> None:
    lasting = rows(600, seed=2) + SHIFT
    lasting[100:200, 0] = 500
    adapted = adapt(given(), buffered(lasting), NORMAL, (0, 1))
    assert list(adapted.moves) == [1]
    assert adapted.moves[1].offset == pytest.approx(90, abs=3)


def test_a_larger_spread_is_taken_over() -> None:
    wild = buffered((rows(600, seed=2) - BEFORE) * [1, 8, 1] + BEFORE)
    adapted = adapt(given(), wild, NORMAL, (1,))
    assert list(adapted.moves) == [1]
    assert adapted.moves[1].factor == pytest.approx(8, rel=0.2)
    assert median(adapted.manifest, wild) == pytest.approx(median(given(), NORMAL), rel=0.3)


def test_what_cannot_be_moved_away_becomes_the_usual_error() -> None:
    usual = replace(given(scaling={"by": "none", "clip": None}), residuals=Residuals(100, np.full(9, 1000.0)))
    wild = buffered(rows(600, seed=2) * [1, 50, 1])
    before = median(usual, NORMAL)
    adapted = adapt(usual, wild, NORMAL, (1,), before)
    assert adapted.moves == {}
    assert median(usual, wild) > 100 * before
    assert 0.1 < median(adapted.manifest, wild) < 3


def test_with_less_than_a_window_the_named_features_move_by_their_medians() -> None:
    adapted = adapt(given(), buffered(rows(2, seed=2) + SHIFT), NORMAL, (1,))
    assert list(adapted.moves) == [1]
    assert 60 < adapted.moves[1].offset < 120
    assert lasting_scores(adapted.manifest, buffered(rows(2))).shape == (0,)


def test_a_feature_that_is_missing_throughout_is_left_alone() -> None:
    lasting = rows(600, seed=2) + SHIFT
    lasting[:, 2] = np.nan
    adapted = adapt(given(), buffered(lasting), NORMAL, (1, 2))
    assert list(adapted.moves) == [1]
    assert np.isfinite(lasting_scores(adapted.manifest, buffered(lasting))).all()


def test_moves_follow_each_other() -> None:
    assert Move(2.0, 1.0).then(Move(3.0, 4.0)) == Move(6.0, 7.0)
