"""Metrics of one client, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flockwatch.quality.metrics import AlertMetrics, RankingMetrics, mean, spread

DAY = 86400.0


def flags(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def test_ranking_by_hand() -> None:
    labels = flags("..x.x")
    scores = np.array([0.1, 0.7, 0.9, 0.2, 0.4])
    found = RankingMetrics.of(labels, scores)
    assert found is not None
    assert found.auroc == pytest.approx(5 / 6)  # of 2 x 3 pairs, only 0.4 against 0.7 is wrong
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.best_f1 == pytest.approx(0.8)  # both found with one false


@pytest.mark.parametrize("labels", ["....", "xxxx"])
def test_labels_of_one_kind_rank_nothing(labels: str) -> None:
    assert RankingMetrics.of(flags(labels), np.arange(4.0)) is None


def test_alert_metrics_by_hand() -> None:
    labels = flags("...xxxx....xx...xx..")
    alerts = flags(".x...x.....x..xx....")
    incidents = [slice(1, 2), slice(5, 6), slice(11, 12), slice(14, 16)]
    found = AlertMetrics.of(labels, alerts, incidents, interval_s=DAY / 6)
    # Hits are events 5 and 11, of 5 alerts and 8 labelled events: no alert is counted for its neighbours.
    assert found.f1 == pytest.approx(2 * 2 / (5 + 8))
    # Two incidents touch no label, in 12 normal events, which are two days.
    assert found.false_alerts_per_day == pytest.approx(2 / 2)
    assert found.event_recall == pytest.approx(2 / 3)
    assert found.delay_s == pytest.approx((2 + 0) / 2 * DAY / 6)


def test_an_incident_that_reaches_a_fault_is_not_false() -> None:
    found = AlertMetrics.of(flags("....xx"), flags("..x.x."), [slice(2, 5)], 60.0)
    assert found.false_alerts_per_day == 0


def test_a_client_without_anomalies_has_false_alerts_and_nothing_else() -> None:
    found = AlertMetrics.of(flags("......"), flags("..x..."), [slice(2, 3)], DAY)
    assert found == AlertMetrics(None, pytest.approx(1 / 6), None, None)


def test_no_alert_finds_nothing_and_has_no_delay() -> None:
    assert AlertMetrics.of(flags("..xx"), flags("...."), [], DAY) == AlertMetrics(0.0, 0.0, 0.0, None)


def test_alerts_that_are_not_grouped_are_not_counted_a_day() -> None:
    assert AlertMetrics.of(flags("..xx"), flags("xxxx"), None, DAY).false_alerts_per_day is None


def test_missing_values_are_left_out_of_means() -> None:
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None]) is None
    assert spread([1.0, None, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0, None]) is None
