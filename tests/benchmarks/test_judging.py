from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.watch.judging import (
    Incident,
    Timeline,
    incidents,
    judge,
    learned,
    lost,
    open_hours,
    other_notices,
    shift_answer,
    silence_notice_s,
    summary,
)

HOUR = 3600.0
START = 1_000_000.0


def timeline(events: int, *faults: slice) -> Timeline:
    labels = np.zeros(events, np.bool_)
    for fault in faults:
        labels[fault] = True
    return Timeline(labels, START, HOUR)


def notice(
    kind: str, started: float, ended: float | None = None, cause: str | None = "a", **rest: Any
) -> dict[str, Any]:
    """A notice with times in events."""
    alert = {"causes": [{"feature": cause}]} if cause else None
    end = None if ended is None else START + ended * HOUR
    given = {"kind": kind, "started": START + started * HOUR, "ended": end, "alert": alert}
    return {"id": "1", "text": None, "events": 1, **given, **rest}


def test_an_incident_lasts_from_its_first_alert_to_its_last() -> None:
    notices = [
        notice("incident_started", 3, id="x"),
        notice("incident_started", 20, id="y", cause="b"),
        notice("incident_ended", 3, 7, id="x"),
        notice("adapted", 20, 44, id="y", cause="b"),
    ]
    assert incidents(notices, timeline(100)) == [
        Incident(slice(3, 8), "a"),
        Incident(slice(20, 45), "b"),
    ]


def test_an_incident_without_an_end_lasts_to_the_end_of_the_stream() -> None:
    assert incidents([notice("incident_started", 90)], timeline(100)) == [Incident(slice(90, 100), "a")]


def test_a_notice_that_is_sent_twice_is_one_incident() -> None:
    notices = [notice("incident_started", 3), notice("incident_started", 3), notice("incident_ended", 3, 4)]
    assert incidents(notices, timeline(10)) == [Incident(slice(3, 5), "a")]


def test_false_notices_are_counted_per_day_within_the_first_day_and_after_it() -> None:
    reported = [Incident(slice(at, at + 1)) for at in (12, 20, 40)]
    result = judge(reported, [60], timeline(10 + 24 + 48), 10)
    assert result.first_day_false == 2
    assert result.later_false == 1  # one incident and one other notice in two days


def test_an_incident_that_begins_in_a_fault_is_not_false_but_its_normal_time_is_in_alarm() -> None:
    result = judge([Incident(slice(30, 40))], [], timeline(58, slice(26, 36)), 0)
    assert result.first_day_false == result.later_false == 0
    assert result.alarm_hours == 4 * 24 / 48


def test_an_incident_that_begins_before_a_fault_is_false() -> None:
    result = judge([Incident(slice(30, 40))], [], timeline(72, slice(32, 36)), 0)
    assert result.later_false == pytest.approx(24 / 44)


def test_overlapping_incidents_count_their_time_in_alarm_once() -> None:
    result = judge([Incident(slice(2, 8)), Incident(slice(4, 6))], [], timeline(24), 0)
    assert result.alarm_hours == 6


def test_an_incident_that_never_ends_finds_no_fault_and_costs_all_its_time() -> None:
    result = judge([Incident(slice(0, 48))], [], timeline(48, slice(10, 12), slice(30, 32)), 0)
    assert (result.faults, len(result.detected), result.inside) == (2, 0, 2)
    assert result.alarm_hours == 24


def test_a_fault_is_found_by_an_incident_that_begins_in_it() -> None:
    faults = slice(10, 14), slice(20, 24), slice(30, 34)
    reported = [Incident(slice(9, 11), "a"), Incident(slice(12, 13), "b"), Incident(slice(23, 40), "c")]
    result = judge(reported, [], timeline(48, *faults), 0)
    assert result.detected == {0: ("b",), 1: ("c",)}
    assert result.inside == 1


def test_a_fault_before_the_first_verdict_is_not_found() -> None:
    result = judge([Incident(slice(30, 32))], [], timeline(48, slice(2, 4), slice(30, 32)), 10)
    assert (result.faults, list(result.detected)) == (2, [1])


def test_a_notice_that_a_silence_is_over_asks_for_no_attention() -> None:
    notices = [
        notice("regime_changed", 2),
        notice("sensor_silent", 5, cause=None),
        notice("sensor_silent", 5, 8, cause=None),
        notice("adapted", 2, 9),
    ]
    assert other_notices(notices, timeline(24)) == [2, 5]


def test_open_incidents_are_sampled_on_normal_time() -> None:
    looks = [(10, True), (20, False), (26, True), (30, True), (40, False)]
    assert open_hours(looks, timeline(48, slice(28, 30)), 4) == pytest.approx((6 + 8) * 24 / 42)


def test_the_summary_has_the_median_and_the_worst_machine_and_all_faults() -> None:
    quiet = judge([], [], timeline(72, slice(50, 52)), 0)
    loud = judge([Incident(slice(at, at + 1)) for at in (3, 5, 50)], [], timeline(72, slice(50, 52)), 0)
    figures = summary([quiet, loud, loud])
    assert figures["day1_false_median"] == figures["day1_false_worst"] == 2
    assert figures["later_false_worst"] == 0
    assert figures["faults_found"] == pytest.approx(2 / 3, abs=1e-3)


def test_a_fault_is_lost_if_another_feature_had_found_it() -> None:
    line = timeline(48, slice(10, 14), slice(20, 24), slice(30, 34))
    without = judge([Incident(slice(10, 11), "a"), Incident(slice(20, 21), "b")], [], line, 0)
    copy = judge([Incident(slice(30, 31), "b")], [], line, 0)
    assert lost(without, copy, "a") == [1]
    assert lost(without, without, "a") == []


def test_a_shift_is_reported_by_incidents_of_its_feature_and_adapted_at_the_end_of_one() -> None:
    notices = [
        notice("incident_started", 2),
        notice("incident_started", 12),
        notice("incident_started", 14, cause="b"),
        notice("regime_changed", 12),
        notice("adapted", 12, 36),
        notice("incident_started", 40),
        notice("regime_changed", 40),
    ]
    answer = shift_answer(notices, "a", START + 12 * HOUR)
    assert (answer.beginnings, answer.regimes, answer.adapted_s) == (1, 1, 24 * HOUR)
    assert shift_answer(notices, "b", START + 12 * HOUR).adapted_s is None


def test_a_silent_sensor_is_reported_by_the_notice_that_names_it() -> None:
    notices = [
        notice("sensor_silent", 3, cause=None, events=5, text="'b' has had no value in the last 5 events"),
        notice("sensor_silent", 12, cause=None, events=2, text="'c' has had no value in the last 2 events"),
        notice("sensor_silent", 3, 20, cause=None, text="'d' has values again"),
    ]
    assert silence_notice_s(notices, "c", START + 12 * HOUR, HOUR) == 2 * HOUR
    assert silence_notice_s(notices, "d", START, HOUR) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stress_is_learned_if_the_buffer_has_more_of_its_values_than_came_without_it(sign: int) -> None:
    normal = sign * np.array([10.0] * 997 + [60.0] * 3)
    stressed = sign * np.full(10, 60.0)
    assert learned(normal, normal, stressed) is False
    assert learned(np.concatenate([normal, stressed[:2]]), normal, stressed) is False
    assert learned(np.concatenate([normal, stressed[:3]]), normal, stressed) is True


def test_a_stress_that_looks_like_the_quiet_time_cannot_be_judged() -> None:
    assert learned(np.array([1.0]), np.array([0.0, 9.0]), np.array([5.0])) is None
    assert learned(np.array([1.0]), np.array([]), np.array([5.0])) is None
