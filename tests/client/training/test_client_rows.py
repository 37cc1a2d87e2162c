from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.buffers.regime import Move, Regime
from client.buffers.training_buffer import TrainingBuffer
from client.data.files.csv_text import DataError
from client.detection.scorer import Scorer
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from common.model.moments import Moments, Scaler
from common.model.schema import Schema, SchemaError
from flockwatch.quality.stream import score_stream
from tests.client.training.samples import ROWS, SCHEMA, client_rows, expected_scores, version


def test_the_last_rows_are_held_out_and_scaled_by_the_fleets_moments() -> None:
    manifest = version()
    prepared = client_rows().prepare(manifest)
    assert (prepared.training, len(prepared.training_starts), len(prepared.held_out_starts)) == (90, 88, 8)
    expected = expected_scores(manifest, ROWS[90:])
    np.testing.assert_allclose(prepared.score_held_out(manifest).errors, expected, rtol=1e-5)
    expected = expected_scores(manifest, ROWS[:90])
    np.testing.assert_allclose(prepared.score_training(manifest).errors, expected, rtol=1e-5)


def test_with_scaling_by_client_the_clients_own_moments_count() -> None:
    manifest = version(scaling={"by": "client"})
    expected = expected_scores(manifest, ROWS[90:], Scaler.of(Moments.of(ROWS)))
    errors = client_rows().prepare(manifest).score_held_out(manifest).errors
    np.testing.assert_allclose(errors, expected, rtol=1e-4)


def test_without_a_holdout_the_training_rows_are_evaluated_too() -> None:
    manifest = version(training={"holdout": 0})
    prepared = client_rows().prepare(manifest)
    assert (prepared.training, len(prepared.held_out_starts)) == (100, 98)


def test_the_rows_of_the_training_buffer_follow_those_of_the_file(tmp_path: Path) -> None:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 1000)
    buffer.append(ROWS[40:], np.zeros(60, np.bool_))
    assert client_rows(ROWS[:40], folder=tmp_path).prepare(version()).training == 90
    no_file = client_rows(ROWS[:0], folder=tmp_path)
    assert no_file.prepare(version()).training == 54
    np.testing.assert_allclose(no_file.moments.mean, ROWS[40:].mean(axis=0), rtol=1e-5)
    buffer.append(ROWS[:10], np.zeros(10, np.bool_))
    assert no_file.prepare(version()).training == 63


def test_no_window_spans_a_break(tmp_path: Path) -> None:
    buffer, breaks = TrainingBuffer(tmp_path, SCHEMA, 100), np.zeros(100, np.bool_)
    breaks[95] = True
    buffer.append(ROWS, breaks)
    manifest = version()
    errors = client_rows(ROWS[:0], folder=tmp_path).prepare(manifest).score_held_out(manifest).errors
    parts = [expected_scores(manifest, ROWS[90:95]), expected_scores(manifest, ROWS[95:])]
    np.testing.assert_allclose(errors, np.concatenate(parts), rtol=1e-5)
    breaks[::2] = True
    buffer.append(ROWS, breaks)
    with pytest.raises(DataError, match="a window needs 3"):
        client_rows(ROWS[:0], folder=tmp_path).prepare(manifest)


def test_columns_in_another_order_are_aligned() -> None:
    manifest, turned = version(), client_rows(ROWS[:, ::-1].copy(), schema=Schema(("b", "a")))
    assert np.array_equal(turned.prepare(manifest).rows, client_rows().prepare(manifest).rows)
    np.testing.assert_allclose(turned.aligned_moments(SCHEMA).mean, ROWS.mean(axis=0), rtol=1e-5)


def test_other_columns_are_named() -> None:
    with pytest.raises(SchemaError, match=r"client 'edge': .* missing 'a'; extra 'c'"):
        client_rows(schema=Schema(("c", "b"))).prepare(version())


def test_too_few_rows_for_a_window_are_named() -> None:
    with pytest.raises(DataError, match="edge: 18 rows to train on and 2 held out, but a window needs 3"):
        client_rows(ROWS[:20]).prepare(version())


# Missing values.


def rows_with_gaps() -> np.ndarray:
    rows = ROWS.copy()
    rows[::7, 1] = np.nan
    rows[40] = np.nan
    rows[95] = np.nan
    return rows


def test_windows_that_end_with_an_event_without_values_are_left_out() -> None:
    prepared = client_rows(rows_with_gaps()).prepare(version())
    assert (len(prepared.training_starts), len(prepared.held_out_starts)) == (87, 7)
    assert 38 not in prepared.training_starts
    for scored in (prepared.score_training(version()), prepared.score_held_out(version())):
        assert np.isfinite(scored.errors).all()
        assert np.isfinite(scored.scores).all()


def test_missing_values_survive_the_training_buffer(tmp_path: Path) -> None:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 1000)
    buffer.append(rows_with_gaps(), np.zeros(100, np.bool_))
    from_buffer, from_file = client_rows(ROWS[:0], folder=tmp_path), client_rows(rows_with_gaps())
    assert np.array_equal(buffer.contents().rows, rows_with_gaps(), equal_nan=True)
    assert np.array_equal(from_buffer.moments.present, from_file.moments.present)
    assert from_buffer.prepare(version()).training == 90


@pytest.mark.parametrize("by", ["shared", "client", "fleet"])
def test_the_trainer_the_detector_and_an_evaluation_score_rows_with_gaps_the_same(by: str) -> None:
    manifest = version(scaling={"by": by})
    # The client's values spread a thousand times less than the fleet's.
    rows = client_rows(rows_with_gaps() * np.float32(1e-3))
    mine = personalise(manifest, rows, TrainerCache())
    prepared = rows.prepare(manifest)
    trained = prepared.score_training(mine).scores
    live = Scorer(mine).score_many(rows.partition.rows)
    starts = prepared.training_starts
    np.testing.assert_allclose(live[starts + 2], trained, rtol=1e-3)
    evaluated = score_stream(mine, rows.partition).training
    assert np.array_equal(evaluated, live, equal_nan=True)


def test_a_client_whose_events_are_all_empty_has_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="a window needs 3"):
        client_rows(np.full_like(ROWS, np.nan)).prepare(version())


def test_rows_of_the_file_are_moved_to_the_level_that_the_detector_adapted_to(tmp_path: Path) -> None:
    own = client_rows(folder=tmp_path)
    before = own.moments.mean.copy()
    feature = SCHEMA.features[0]
    Regime().then({feature: Move(2.0, 5.0)}).save(tmp_path)
    own.prepare(version())
    assert own.moments.mean[0] == pytest.approx(2 * before[0] + 5, rel=1e-4)
    np.testing.assert_allclose(own.moments.mean[1:], before[1:])
    np.testing.assert_allclose(client_rows(folder=tmp_path).moments.mean, own.moments.mean)
    Regime.load(tmp_path).then({feature: Move(1.0, -5.0)}).save(tmp_path)
    own.prepare(version())
    assert own.moments.mean[0] == pytest.approx(2 * before[0], rel=1e-4, abs=1e-4)
