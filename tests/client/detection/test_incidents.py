from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from client.detection.incidents import Incidents
from common.protocol.alerts import Alert, Cause, Notice
from common.settings import LiveSettings

SETTINGS = LiveSettings(release=0.5, end_after=3)


def run(scores: Iterable[float], incidents: Incidents | None = None) -> list[Notice]:
    """Notices of scores against a threshold of 1, a second apart."""
    incidents = incidents or Incidents("edge", SETTINGS)
    found = []
    for time, score in enumerate(scores):
        notice = None
        if score <= 1:
            notice = incidents.add_below(score, 1.0)
        elif incidents.is_peak(score):
            cause = Cause("cpu", 1.0, score, 0.5)
            notice = incidents.add_peak(score, Alert(float(time), score, 1.0, 4, (cause,)))
        else:
            incidents.add(float(time))
        if notice is not None:
            found.append(notice)
    return found


def test_a_fault_is_one_notice_when_it_starts_and_one_when_it_has_ended() -> None:
    start, end = run([0.1, 2, 5, 3, 0.9, 0.4, 0.4, 0.4, 0.1])
    assert (start.kind, start.started, start.ended, start.events) == ("incident_started", 1.0, None, 1)
    assert start.alert.score == 2
    assert (end.kind, end.started, end.ended, end.events) == ("incident_ended", 1.0, 3.0, 3)
    assert (end.alert.time, end.alert.score) == (2.0, 5)
    assert start.id == end.id
    assert len(start.id) == 16


def test_a_score_between_release_and_threshold_keeps_an_incident_open() -> None:
    incidents = Incidents("edge", SETTINGS)
    assert len(run([2, 0.4, 0.4, 0.6, 0.4, 0.4], incidents)) == 1
    assert incidents.open
    assert len(run([0.4], incidents)) == 1
    assert not incidents.open


def test_a_second_fault_is_another_incident() -> None:
    notices = run([2, 0, 0, 0, 2, 0, 0, 0])
    assert [n.kind for n in notices] == ["incident_started", "incident_ended"] * 2
    assert notices[0].id != notices[2].id


@given(st.lists(st.sampled_from([0.1, 0.7, 2.0, 9.0]), max_size=80))
def test_notices_alternate_and_count_every_event_above_the_threshold(scores: list[float]) -> None:
    incidents = Incidents("edge", SETTINGS)
    notices = run(scores, incidents)
    last = incidents.end()
    notices += [last] if last else []
    assert [n.kind for n in notices] == ["incident_started", "incident_ended"] * (len(notices) // 2)
    ended = notices[1::2]
    assert sum(n.events for n in ended) == sum(score > 1 for score in scores)
    assert incidents.started == len(ended)
    for notice in ended:
        inside = scores[int(notice.started) : int(notice.ended or 0) + 1]
        assert notice.alert.score == max(inside)


def test_an_incident_has_the_same_id_when_the_stream_is_read_again() -> None:
    assert [n.id for n in run([0, 2, 0])] == [n.id for n in run([0, 2, 0])]
    assert run([2])[0].id != run([0, 2])[0].id


def test_a_notice_is_a_json_object() -> None:
    packed = json.loads(run([2])[0].pack())
    assert packed["alert"]["causes"] == [{"feature": "cpu", "share": 1.0, "value": 2.0, "expected": 0.5}]
    assert (packed["kind"], packed["client"], packed["alert"]["version"]) == ("incident_started", "edge", 4)


def test_only_the_first_alert_and_higher_ones_are_peaks() -> None:
    incidents, peaks = Incidents("edge", SETTINGS), []
    for score in (2.0, 3.0, 2.5, 3.0, 4.0):
        if incidents.is_peak(score):
            peaks.append(score)
            incidents.add_peak(score, Alert(0.0, score, 1.0, 1, ()))
        else:
            incidents.add(0.0)
    assert peaks == [2.0, 3.0, 4.0]
    ended = incidents.end()
    assert ended is not None and (ended.events, ended.alert.score) == (5, 4.0)
