from __future__ import annotations

import json

import numpy as np
import pytest

from common.model.histogram import ScoreHistogram
from common.model.residuals import Residuals
from common.model.scoring import ErrorSummary
from common.protocol.messages import Traffic, Update
from server.federation.client_records import MAX_CLIENTS, ClientRecords
from tests.server.replies import update


def aggregated(records: ClientRecords, *updates: Update) -> None:
    for one in updates:
        records.record_reply(one)
    records.record_aggregated((one, 1, False) for one in updates)


def test_a_sign_flipper_has_a_negative_cosine() -> None:
    records, rng = ClientRecords(), np.random.default_rng(0)
    for _ in range(10):
        honest = [update(name, rng.normal([3.0, 1.0], 0.5)) for name in "abcdef"]
        aggregated(records, *honest, update("byzantine", rng.normal([-3.0, -1.0], 0.5)))
    cosines = {name: records[name].cosine for name in records}
    assert cosines["byzantine"] < -0.8
    assert all(cosines[name] > 0.8 for name in "abcdef")


def test_a_broken_sensor_has_a_large_distance() -> None:
    records, rng = ClientRecords(), np.random.default_rng(0)
    for name in "abcdef":
        records.record_reply(update(name, scores=rng.exponential(1.0, 500)))
    records.record_reply(update("broken", scores=rng.exponential(1.0, 500) + 30))
    records.update_distances([*"abcdef", "broken"])
    distances = {name: records[name].distance for name in records}
    assert distances["broken"] > 0.8
    assert all(distances[name] < 0.3 for name in "abcdef")


def test_records_outlive_a_restart() -> None:
    records = ClientRecords()
    aggregated(records, update("a"))
    records.count_rejected("a", "not finite")
    records.count_dropped("a")
    again = ClientRecords(json.loads(json.dumps(records.to_json())) | {"b": {"admitted": 2, "state": "gone"}})
    assert again.to_json() | {"b": None} == records.to_json() | {"b": None}
    assert again["b"].admitted == 2
    assert again["a"].norm == 1.0


def test_counts_outlive_many_restarts() -> None:
    records = ClientRecords()
    for restart in range(1, 5):
        aggregated(records, update("a", traffic=Traffic(100 * restart, 10, timed_s=0.5)))
        records = ClientRecords(json.loads(json.dumps(records.to_json())))
        assert (records["a"].admitted, records["a"].sent_bytes) == (restart, 100 * restart)
    earlier = records.to_json()["a"] | {"sent_bytes": 400.0}  # as releases before wrote it
    assert ClientRecords({"a": earlier})["a"].sent_bytes == 400


def test_after_a_restart_the_last_versions_scores_stand_in_for_missing_ones() -> None:
    before = ScoreHistogram.of(np.arange(50.0))
    records = ClientRecords({"a": {"admitted": 1}, "b": {"admitted": 1}})
    records.record_reply(update("a", scores=np.arange(10.0)))
    assert records.merged_scores({"a", "b"}, before).count == 60
    records.record_reply(update("b", scores=np.arange(10.0)))
    assert records.merged_scores({"a", "b"}, before).count == 20


def test_the_mean_error_is_of_each_clients_newest_weighted_by_rows() -> None:
    records = ClientRecords()
    assert records.mean_error({"a"}) is None
    records.record_reply(update("a", error=ErrorSummary(1, 9.0, 1, 1, 1, 1)))
    records.record_reply(update("a", error=ErrorSummary(1, 1.0, 1, 1, 1, 1)))
    records.record_reply(update("b", rows=30, error=ErrorSummary(1, 2.0, 1, 1, 1, 1)))
    records.record_reply(update("gone", error=ErrorSummary(1, 99.0, 1, 1, 1, 1)))
    assert records.mean_error({"a", "b", "never heard"}) == pytest.approx((1 * 10 + 2 * 30) / 40)


def test_names_that_come_and_go_for_ever_are_forgotten() -> None:
    records = ClientRecords()
    for i in range(MAX_CLIENTS + 20):
        records.count_rejected(f"client-{i}", "failed")
    assert len(list(records)) == MAX_CLIENTS


def test_a_client_that_sends_often_counts_once_in_the_norms() -> None:
    records = ClientRecords()
    for name in "abcde":
        records.record_reply(update(name, (1.0, 0.0)))
    for _ in range(100):
        records.record_reply(update("byzantine", (1000.0, 0.0)))
    assert sorted(records.norms({*"abcde", "byzantine"}))[2] == 1.0


def residuals(*squares: float) -> Residuals:
    return Residuals.of(np.array([squares]))


def test_merged_residuals_are_those_that_the_clients_sent_last() -> None:
    records = ClientRecords()
    records.record_reply(update("a", scores=[1.0], residuals=residuals(1.0, 2.0)))
    records.record_reply(update("b", scores=[1.0], residuals=residuals(10.0, 20.0)))
    records.record_reply(update("gone", scores=[1.0], residuals=residuals(9.0, 9.0)))
    records.record_reply(update("a", scores=[1.0], residuals=residuals(3.0, 4.0)))
    records.record_reply(update("a"))  # was not asked for them
    result = records.merged_residuals(["a", "b"], Residuals())
    assert (result.count, result.squares.tolist()) == (2, [13.0, 24.0])


def test_after_a_restart_the_last_versions_residuals_stand_in_for_those_that_are_missing() -> None:
    records, before = ClientRecords({"a": {"admitted": 1}}), residuals(5.0, 5.0)
    assert records.merged_residuals(["a"], before).squares.tolist() == [5.0, 5.0]
    records.record_reply(update("a", scores=[1.0], residuals=residuals(1.0, 1.0)))
    assert records.merged_residuals(["a"], before).squares.tolist() == [1.0, 1.0]
