"""What an edge answers when asked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.partition import Partition
from client.data.tables import DataError
from client.data.training_buffer import TrainingBuffer
from client.training.worker import ClientWorker
from client.versions.version_store import VersionStore
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema, SchemaError
from common.model.scoring import score_windows, scores
from common.model.version_settings import VersionSettings
from common.model.weights import norm
from common.protocol.messages import Task, TaskOptions
from common.settings import ScalingSettings, Settings

SCHEMA = Schema(("a", "b"))
ROWS = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32) * [1, 50] + [0, 7]
ROWS = ROWS.astype(np.float32)


def edge(rows: np.ndarray = ROWS, test: np.ndarray | None = None, schema: Schema = SCHEMA) -> ClientWorker:
    test_rows = rows[:0] if test is None else test
    return ClientWorker(Partition("edge", schema, rows, test_rows, None), "instance")


def task(schema: Schema = SCHEMA, **changes: dict[str, object]) -> Task:
    plain: dict[str, dict[str, object]] = {
        "model": {"window": 3, "hidden": (4,)},
        "scaling": {"by": "fleet", "clip": None},
        "scoring": {"normalise": False, "decay": 1.0, "personal_epochs": 0},
    }
    settings = Settings().with_values(**(plain | changes))
    shape = Architecture.from_settings(settings.model, 2)
    fleet = Moments.of(np.array([[0.0, 0.0], [4.0, 40.0]]))
    return Task(Manifest(3, schema, shape, shape.initial_weights(1), fleet, VersionSettings.of(settings)))


def by_hand(given: Task, rows: np.ndarray, scaler: Scaler) -> np.ndarray:
    return scores(given.manifest.architecture, given.manifest.weights, scaler.apply(rows))


def test_a_description_holds_moments_and_no_row() -> None:
    described = edge().describe()
    assert (described.client, described.instance, described.schema) == ("edge", "instance", SCHEMA)
    np.testing.assert_allclose(described.moments.mean, ROWS.mean(axis=0), rtol=1e-5)
    packed = described.pack()
    assert not any(row.tobytes() in packed or row.astype(float).tobytes() in packed for row in ROWS)


def test_a_version_is_measured_on_the_last_rows_under_the_fleets_scaler() -> None:
    given = task()
    score_windows = edge().evaluate(given)
    expected = by_hand(given, ROWS[90:], Scaler.of(given.manifest.moments))
    assert (score_windows.version, score_windows.rows, score_windows.error.count) == (3, 90, 8)
    assert score_windows.error.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert score_windows.error.max == pytest.approx(expected.max(), rel=1e-5)


def test_with_scaling_by_client_the_clients_own_moments_count() -> None:
    given = task(scaling={"by": "client"})
    expected = by_hand(given, ROWS[90:], Scaler.of(Moments.of(ROWS)))
    assert edge().evaluate(given).error.mean == pytest.approx(expected.mean(), rel=1e-4)


def test_without_a_holdout_the_error_is_that_of_the_training_rows() -> None:
    given = task(training={"holdout": 0})
    score_windows = edge().evaluate(given)
    expected = by_hand(given, ROWS, Scaler.of(given.manifest.moments))
    assert (score_windows.rows, score_windows.error.count) == (100, 98)
    assert score_windows.error.mean == pytest.approx(expected.mean(), rel=1e-5)


def test_an_update_is_a_difference_and_carries_the_error_before_training() -> None:
    given, one = task(), edge()
    update = one.train(given)
    assert update.error == one.evaluate(given).error
    assert update.version == 3
    assert norm(update.difference) > 0
    assert {n: a.shape for n, a in update.difference.items()} == given.manifest.architecture.shapes


def test_an_update_carries_its_scores_only_if_they_are_asked_for() -> None:
    given = task()
    assert edge().train(given).scores.count == 8
    silent = edge().train(Task(given.manifest, terms=TaskOptions(scores=False)))
    assert (silent.scores.count, silent.error.count) == (0, 8)


def test_neither_held_out_nor_test_rows_change_what_is_learned() -> None:
    given = task()
    other = ROWS.copy()
    other[90:] = 1000
    clean = edge().train(given).difference
    same = edge(other, test=other[:50]).train(given).difference
    assert all(np.array_equal(clean[name], same[name]) for name in clean)


def test_columns_in_another_order_are_put_right() -> None:
    turned = edge(ROWS[:, ::-1].copy(), schema=Schema(("b", "a")))
    assert turned.evaluate(task()).error.mean == pytest.approx(edge().evaluate(task()).error.mean)


def test_other_columns_are_named() -> None:
    with pytest.raises(SchemaError, match=r"client 'edge': .* missing 'a'; extra 'c'"):
        edge(schema=Schema(("c", "b"))).evaluate(task())


def test_too_few_rows_for_a_window_are_named() -> None:
    with pytest.raises(DataError, match="edge: 18 rows to train on and 2 held out, but a window needs 3"):
        edge(ROWS[:20]).train(task())


def test_anomalies_are_events_above_the_quantile_of_held_out_scores() -> None:
    test = np.concatenate([ROWS[:60], ROWS[:1] + 10_000, ROWS[61:80]]).astype(np.float32)
    given = task(threshold={"quantile": 0.9})
    judged = edge(test=test).judge(given.manifest)
    scaler = Scaler.of(given.manifest.moments)
    assert judged.threshold == pytest.approx(np.quantile(by_hand(given, ROWS[90:], scaler), 0.9), rel=1e-5)
    found = by_hand(given, test, scaler)
    assert (judged.events, judged.anomalies) == (78, int((found > judged.threshold).sum()))
    assert judged.anomalies >= 3  # every window that holds the event


def test_a_fixed_threshold_replaces_the_quantile() -> None:
    judged = edge().judge(task(threshold={"value": 0.25}).manifest)
    assert judged.threshold == 0.25
    assert judged.events == 98  # without test rows all rows are judged


def test_the_trainer_is_kept_while_the_model_stays_the_same() -> None:
    one, given = edge(), task()
    shape, settings = given.manifest.architecture, Settings().training
    assert one.warm(shape, settings) is one.warm(shape, settings)
    assert one.warm(replace(shape, window=2), settings) is not one.warm(shape, settings)


def live_edge(folder: Path, rows: np.ndarray = ROWS[:0]) -> ClientWorker:
    return ClientWorker(Partition("edge", SCHEMA, rows, rows[:0], None), "instance", folder=folder)


def test_what_the_detector_kept_is_trained_on_behind_the_history(tmp_path: Path) -> None:
    kept = TrainingBuffer(tmp_path, SCHEMA, 1000)
    kept.append(ROWS[40:], np.zeros(60, np.bool_))
    given = task()
    assert live_edge(tmp_path, ROWS[:40]).evaluate(given).rows == 90
    alone = live_edge(tmp_path)
    assert alone.evaluate(given).rows == 54
    np.testing.assert_allclose(alone.describe().moments.mean, ROWS[40:].mean(axis=0), rtol=1e-5)
    kept.append(ROWS[:10], np.zeros(10, np.bool_))
    assert alone.evaluate(given).rows == 63


def test_no_window_spans_a_break(tmp_path: Path) -> None:
    kept, breaks = TrainingBuffer(tmp_path, SCHEMA, 100), np.zeros(100, np.bool_)
    breaks[95] = True
    kept.append(ROWS, breaks)
    given = task()
    score_windows = live_edge(tmp_path).evaluate(given)
    scaler = Scaler.of(given.manifest.moments)
    parts = [by_hand(given, ROWS[90:95], scaler), by_hand(given, ROWS[95:], scaler)]
    assert score_windows.error.count == 6
    assert score_windows.error.mean == pytest.approx(np.concatenate(parts).mean(), rel=1e-5)
    breaks[::2] = True
    kept.append(ROWS, breaks)
    with pytest.raises(DataError, match="a window needs 3"):
        live_edge(tmp_path).evaluate(given)


def test_trained_versions_are_offered_to_the_detector_once(tmp_path: Path) -> None:
    given, one, store = task(), live_edge(tmp_path, ROWS), VersionStore(tmp_path)
    one.evaluate(Task(replace(given.manifest, version=0)))
    one.rest()
    assert store.candidate() is None
    one.evaluate(given)
    one.rest()
    offered = store.candidate()
    assert offered is not None and offered.hash == given.manifest.hash
    store.accept(offered)
    one.evaluate(given)
    one.rest()
    assert store.candidate() is None


def test_of_versions_that_come_faster_than_they_can_be_made_its_own_a_client_offers_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("client.training.worker.time.monotonic", lambda: now[0])
    given, one, store = task(), live_edge(tmp_path, ROWS), VersionStore(tmp_path)
    adopted = one.adopted

    def slowly(manifest: Manifest) -> Manifest:
        now[0] += 2.0
        return adopted(manifest)

    monkeypatch.setattr(one, "adopted", slowly)
    for version in (1, 2, 3):
        one.evaluate(Task(replace(given.manifest, version=version)))
        one.rest()
        now[0] += 5.0
    first = store.candidate()
    assert first is not None and first.version == 1
    now[0] += 8.0
    one.rest()
    last = store.candidate()
    assert last is not None and last.version == 3


def test_a_client_with_its_own_scale_gives_it_to_the_detector(tmp_path: Path) -> None:
    given, one = task(scaling={"by": "client"}), live_edge(tmp_path, ROWS)
    one.evaluate(given)
    one.rest()
    offered = VersionStore(tmp_path).candidate()
    assert offered is not None
    np.testing.assert_allclose(offered.moments.mean, ROWS.mean(axis=0), rtol=1e-5)


def test_drift_goes_with_the_next_message(tmp_path: Path) -> None:
    one, store = live_edge(tmp_path, ROWS), VersionStore(tmp_path)
    assert not one.evaluate(task()).drifted
    store.drifted = True
    assert one.evaluate(task()).drifted
    assert one.train(task()).drifted


def test_scores_of_held_out_rows_are_sketched() -> None:
    given = task()
    expected = by_hand(given, ROWS[90:], Scaler.of(given.manifest.moments))
    for answer in (edge().evaluate(given), edge().train(given)):
        assert answer.scores.count == 8
        assert answer.scores.quantile(1.0) == pytest.approx(expected.max(), rel=1e-5)


def shared(**scoring: object) -> Task:
    given = task(
        scaling={"by": "shared", "clip": 10.0}, scoring={"personal_epochs": 3, "prior": 90, **scoring}
    )
    return Task(replace(given.manifest, residuals=Residuals.of(np.full((1000, 6), 2.0))))


def test_a_client_takes_a_share_of_what_its_own_rows_tune() -> None:
    given = shared().manifest
    taken = edge().adopted(given)
    trusting = edge().adopted(shared(prior=10**9).manifest)
    tuned = edge().adopted(shared(prior=1).manifest)
    share = 88 / (88 + 90)
    for name, array in given.weights.items():
        assert not np.array_equal(array, tuned.weights[name])
        whole = array + (tuned.weights[name] - array) * (89 / 88)
        np.testing.assert_allclose(taken.weights[name], array + share * (whole - array), atol=1e-5)
        np.testing.assert_allclose(trusting.weights[name], array, atol=1e-5)
    usual = trusting.architecture.recency_weights(0.8) / (2.02 * 1.01)
    np.testing.assert_allclose(trusting.precision, usual, rtol=1e-3)


def test_the_version_of_a_client_has_its_mean_and_the_fleets_spread() -> None:
    given = shared().manifest
    taken = edge().adopted(given)
    np.testing.assert_allclose(taken.moments.mean, ROWS.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(taken.moments.variance, given.moments.within / given.moments.count)
    assert edge().adopted(given).hash == taken.hash


def test_its_own_rows_score_one_on_average_under_the_version_that_a_client_has_made_its_own() -> None:
    taken = edge().adopted(shared(prior=1, decay=1.0).manifest)
    scaled = Scaler.chosen(ScalingSettings(), taken.moments, taken.moments).apply(ROWS[:90])
    found = scores(taken.architecture, taken.weights, scaled, None, taken.precision)
    assert found.mean() == pytest.approx(1, rel=0.05)


def test_a_version_is_taken_as_it_is_where_nothing_is_to_be_personal() -> None:
    given = task().manifest
    assert edge().adopted(given).hash == given.hash


def test_without_tensorflow_a_version_is_weighed_but_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "client.training.trainer", None)
    given = shared().manifest
    taken = edge().adopted(given)
    assert all(np.array_equal(taken.weights[n], given.weights[n]) for n in given.weights)
    assert not np.array_equal(taken.precision, given.precision)


def test_neither_held_out_nor_test_rows_change_what_a_client_makes_of_a_version() -> None:
    given, other = shared().manifest, ROWS.copy()
    other[90:] = ROWS[:10]
    clean, same = edge().adopted(given), edge(other, test=other[:50]).adopted(given)
    assert same.moments.count == clean.moments.count
    fixed = task(scaling={"by": "fleet"}, scoring={"normalise": True, "personal_epochs": 2}).manifest
    assert edge().adopted(fixed).hash == edge(other, test=other[:50]).adopted(fixed).hash


def test_residuals_travel_as_sums_over_windows_and_no_row_does() -> None:
    given = shared()
    for answer in (edge().evaluate(given), edge().train(given)):
        scaler = Scaler.chosen(ScalingSettings(), given.manifest.moments, Moments.of(ROWS))
        found = score_windows(given.manifest.architecture, given.manifest.weights, scaler.apply(ROWS[90:]))
        assert answer.residuals.count == 8
        np.testing.assert_allclose(answer.residuals.squares, found.residuals.squares, rtol=1e-4)
        packed, scaled = answer.pack(), scaler.apply(ROWS)
        for row in [*ROWS, *scaled]:
            assert row.tobytes() not in packed and row.astype(float).tobytes() not in packed
    assert edge().train(Task(given.manifest, terms=TaskOptions(scores=False))).residuals.count == 0
    assert edge().evaluate(task()).residuals.count == 0
