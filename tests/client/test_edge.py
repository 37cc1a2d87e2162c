"""What an edge answers when asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data import Partition
from client.edge import Edge
from client.tables import DataError
from common.architecture import Architecture
from common.manifest import Manifest
from common.messages import Task
from common.moments import Moments, Scaler
from common.schema import Schema, SchemaError
from common.scoring import scores
from common.settings import Settings
from common.weights import norm

SCHEMA = Schema(("a", "b"))
ROWS = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32) * [1, 50] + [0, 7]
ROWS = ROWS.astype(np.float32)


def edge(rows: np.ndarray = ROWS, test: np.ndarray | None = None, schema: Schema = SCHEMA) -> Edge:
    test_rows = rows[:0] if test is None else test
    return Edge(Partition("edge", schema, rows, test_rows, None), "instance")


def task(schema: Schema = SCHEMA, **changes: dict[str, object]) -> Task:
    settings = Settings().with_values(**{"model": {"window": 3, "hidden": (4,)}, **changes})
    shape = Architecture.of(settings.model, 2)
    kept = settings.model_dump(mode="json", include={"model", "training", "scaling", "threshold"})
    fleet = Moments.of(np.array([[0.0, 0.0], [4.0, 40.0]]))
    return Task(Manifest(3, schema, shape, shape.first_weights(1), fleet, kept))


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
    measured = edge().evaluate(given)
    expected = by_hand(given, ROWS[90:], Scaler.of(given.manifest.moments))
    assert (measured.version, measured.rows, measured.error.count) == (3, 90, 8)
    assert measured.error.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert measured.error.max == pytest.approx(expected.max(), rel=1e-5)


def test_with_scaling_by_client_the_clients_own_moments_count() -> None:
    given = task(scaling={"by": "client"})
    expected = by_hand(given, ROWS[90:], Scaler.of(Moments.of(ROWS)))
    assert edge().evaluate(given).error.mean == pytest.approx(expected.mean(), rel=1e-4)


def test_without_a_holdout_the_error_is_that_of_the_training_rows() -> None:
    given = task(training={"holdout": 0})
    measured = edge().evaluate(given)
    expected = by_hand(given, ROWS, Scaler.of(given.manifest.moments))
    assert (measured.rows, measured.error.count) == (100, 98)
    assert measured.error.mean == pytest.approx(expected.mean(), rel=1e-5)


def test_an_update_is_a_difference_and_carries_the_error_before_training() -> None:
    given, one = task(), edge()
    update = one.train(given)
    assert update.error == one.evaluate(given).error
    assert update.version == 3
    assert norm(update.difference) > 0
    assert {n: a.shape for n, a in update.difference.items()} == given.manifest.architecture.shapes


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
