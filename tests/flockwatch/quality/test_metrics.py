"""Metrics of one client, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flockwatch.quality.metrics import LOWER_IS_BETTER, METRICS, AlertMetrics, RankingMetrics, mean, spread

DAY = 86400.0


def flags(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def test_ranking_by_hand() -> None:
    labels = flags("..x.x")
    scores = np.array([0.1, 0.7, 0.9, 0.2, 0.4])
    result = RankingMetrics.of(labels, scores)
    assert result is not None
    assert result.auroc == pytest.approx(5 / 6)  # of 2 x 3 pairs, only 0.4 against 0.7 is wrong
    assert result.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert result.best_f1 == pytest.approx(0.8)  # both found with one false


@pytest.mark.parametrize("labels", ["....", "xxxx"])
def test_labels_of_one_kind_rank_nothing(labels: str) -> None:
    assert RankingMetrics.of(flags(labels), np.arange(4.0)) is None


def test_alert_metrics_by_hand() -> None:
    labels = flags("...xxxx....xx...xx..")
    alerts = flags(".x...x.....x..xx....")
    incidents = [range(1, 2), range(5, 6), range(11, 12), range(14, 16)]
    result = AlertMetrics.of(labels, alerts, incidents, interval_s=DAY / 6)
    # Hits are events 5 and 11, of 5 alerts and 8 labelled events: no alert is counted for its neighbours.
    assert result.f1 == pytest.approx(2 * 2 / (5 + 8))
    # Two incidents begin outside faults, in 12 normal events, which are two days; they last three events.
    assert result.false_notices_per_day == pytest.approx(2 / 2)
    assert result.false_notices_per_1000 == pytest.approx(1000 * 2 / 12)
    assert result.alarm_hours_per_day == pytest.approx(24 * 3 / 12)
    assert result.alarm_events_per_1000 == pytest.approx(1000 * 3 / 12)
    assert result.faults_found == pytest.approx(2 / 3)
    assert result.faults_in_open_incident == 0
    assert result.delay_s == pytest.approx((2 + 0) / 2 * DAY / 6)


def test_an_incident_that_begins_before_a_fault_is_false_and_does_not_find_it() -> None:
    result = AlertMetrics.of(flags("....xx"), flags("..x.x."), [range(2, 5)], 60.0)
    assert result.false_notices_per_1000 == 1000 / 4
    assert result.alarm_events_per_1000 == 1000 * 2 / 4
    assert (result.faults_found, result.faults_in_open_incident, result.delay_s) == (0.0, 1.0, None)


def test_an_incident_that_begins_in_a_fault_is_not_false_but_its_unlabelled_time_is_alarm() -> None:
    result = AlertMetrics.of(flags("..xx...."), flags("...xxxxx"), [range(3, 8)], DAY / 6)
    assert result.false_notices_per_day == 0
    assert result.alarm_hours_per_day == pytest.approx(24 * 4 / 6)
    assert (result.faults_found, result.faults_in_open_incident) == (1.0, 0.0)


def test_a_score_above_the_threshold_nearly_always_has_many_hours_in_alarm_and_few_incidents_of_its_own() -> (
    None
):
    labels = flags("x.........xx........xx........xx....")
    result = AlertMetrics.of(labels, flags("x" * 36), [range(36)], DAY / 29)
    assert result.false_notices_per_day == 0  # it begins in the first fault
    assert result.alarm_hours_per_day == pytest.approx(24)
    assert (result.faults_found, result.faults_in_open_incident) == (1 / 4, 3 / 4)


def test_an_incident_from_before_the_first_event_is_alarm_and_neither_false_nor_a_find() -> None:
    result = AlertMetrics.of(flags("xx..xx.."), flags("x..x...."), [range(-5, 4)], DAY)
    assert (result.false_notices_per_1000, result.alarm_events_per_1000) == (0.0, 500.0)
    assert (result.faults_found, result.faults_in_open_incident) == (0.0, 0.5)


def test_a_second_incident_beside_an_open_one_finds_a_fault() -> None:
    result = AlertMetrics.of(flags("....xx"), flags(".xxxxx"), [range(1, 6), range(5, 6)], 60.0)
    assert (result.faults_found, result.faults_in_open_incident) == (1.0, 0.0)
    assert result.alarm_events_per_1000 == 1000 * 3 / 4  # hours are not counted twice
    assert result.delay_s == 60.0


def test_without_a_time_between_events_there_are_no_figures_in_days_or_hours() -> None:
    result = AlertMetrics.of(flags("..xx.."), flags(".xx..."), [range(1, 2), range(2, 3)], None)
    assert (result.false_notices_per_day, result.alarm_hours_per_day, result.delay_s) == (None, None, None)
    assert (result.false_notices_per_1000, result.alarm_events_per_1000) == (250.0, 250.0)


def test_a_client_without_anomalies_has_alarms_and_nothing_else() -> None:
    result = AlertMetrics.of(flags("......"), flags("..x..."), [range(2, 3)], DAY)
    per_1000 = pytest.approx(1000 / 6)
    assert result == AlertMetrics(None, pytest.approx(1 / 6), 4.0, per_1000, per_1000, None, None, None)


def test_no_alert_finds_nothing_and_has_no_delay() -> None:
    result = AlertMetrics.of(flags("..xx"), flags("...."), [], DAY)
    assert result == AlertMetrics(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None)


def test_the_lower_values_are_better_of_known_metrics() -> None:
    assert set(METRICS) > LOWER_IS_BETTER


def test_missing_values_are_left_out_of_means() -> None:
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None]) is None
    assert spread([1.0, None, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0, None]) is None
