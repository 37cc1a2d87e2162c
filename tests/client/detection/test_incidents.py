from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.detection.flapping import MIN_WORSE_EVENTS
from client.detection.incidents import Incidents
from client.detection.scored_event import Explained
from common.protocol.alerts import Alert, Cause, Notice
from common.settings import LiveSettings

HOUR_S = 3600.0
FEATURES = ("cpu", "disk", "heat", "net")


@dataclass(frozen=True)
class Event:
    """An event whose score is the sum of its features' errors, against a threshold of 1."""

    number: int
    errors: tuple[float, ...]
    time: float
    threshold: float = 1.0
    doubt: float = 0.0
    overlap: int = 1
    level: float = 0.0
    """The usual score of the events before those above the threshold."""
    usual: float = 0.0
    """The highest score of normal windows with features masked."""
    heat_factor: float = 1.0
    """The threshold of incidents led by the third feature, in multiples of that of the others."""

    @property
    def score(self) -> float:
        return sum(self.errors)

    def score_without(self, features: Collection[int]) -> float:
        return sum(error for i, error in enumerate(self.errors) if i not in features)

    def level_before(self, events: int) -> float:
        return self.level

    def value_of(self, feature: int) -> float:
        return self.errors[feature]

    def threshold_of(self, feature: str) -> float:
        return self.threshold * (self.heat_factor if feature == "heat" else 1)

    def usual_without(self, features: Collection[int]) -> float:
        return self.usual if features else 0.0

    def score_of_others(self, features: Collection[int], masked: Collection[int]) -> float:
        return self.score_without({*features, *masked})

    def explain_without(self, features: Collection[int]) -> Explained:
        total = self.score_without(features)
        order = sorted(
            (i for i in range(len(self.errors)) if i not in features), key=lambda i: -self.errors[i]
        )
        causes = tuple(Cause(FEATURES[i], self.errors[i] / total, self.errors[i], 0.5) for i in order)
        return Explained(Alert(self.time, total, self.threshold, 4, causes), tuple(order[:1]))


def incidents(**live: object) -> Incidents:
    return Incidents("edge", LiveSettings(**{"start_after": 1, **live}))  # type: ignore[arg-type]


def run(
    errors: Iterable[float | tuple[float, ...]],
    under_test: Incidents | None = None,
    step_s: float = 1.0,
    first: int = 0,
    overlap: int = 1,
    usual: float = 0.0,
) -> list[Notice]:
    """Notices of events `step_s` apart, given by the errors of their features, or by that of the first."""
    under_test = under_test or incidents()
    notices = []
    for number, of in enumerate(errors, first):
        event = Event(
            number, of if isinstance(of, tuple) else (of,), number * step_s, overlap=overlap, usual=usual
        )
        if event.score > 1 or under_test.open:
            notices += under_test.add(event)
        else:
            under_test.skip()
    return notices


def kinds(notices: Iterable[Notice]) -> list[str]:
    return [notice.kind for notice in notices]


def leading(notices: Iterable[Notice]) -> list[tuple[str, str]]:
    return [(n.kind, n.alert.causes[0].feature if n.alert else "") for n in notices]


def test_a_fault_is_one_notice_when_it_starts_and_one_when_it_has_ended() -> None:
    start, end = run([0.1, 2, 5, 3, 0.9, 0.4, 0.4, 0.4, 0.1], incidents(release=0.5))
    assert (start.kind, start.started, start.ended, start.events) == ("incident_started", 1.0, None, 1)
    assert (end.kind, end.started, end.ended, end.events) == ("incident_ended", 1.0, 3.0, 3)
    assert start.alert is not None and start.alert.score == 2
    assert end.alert is not None and (end.alert.time, end.alert.score) == (2.0, 5)
    assert start.id == end.id
    assert len(start.id) == 16


def test_a_score_between_release_and_threshold_keeps_an_incident_open() -> None:
    under_test = incidents(release=0.5)
    assert len(run([2, 0.4, 0.4, 0.6, 0.4, 0.4], under_test)) == 1
    assert under_test.open
    assert len(run([0.4], under_test)) == 1
    assert not under_test.open


def test_a_fault_that_is_shorter_than_start_after_is_not_an_incident() -> None:
    assert kinds(run([2, 2, 0, 2, 0, 2, 2, 2], incidents(start_after=3))) == ["incident_started"]


def test_by_default_two_events_in_a_row_or_a_clear_one_start_an_incident() -> None:
    by_default = LiveSettings()
    assert run([1.9, 0, 1.9, 0, 0, 0], Incidents("edge", by_default)) == []
    assert kinds(run([1.2, 1.2], Incidents("edge", by_default))) == ["incident_started"]
    assert kinds(run([2.1], Incidents("edge", by_default))) == ["incident_started"]


def test_without_evidence_an_incident_needs_most_of_a_window_or_a_far_higher_score() -> None:
    def started(errors: list[float]) -> list[int]:
        under_test = Incidents("edge", LiveSettings())
        events = [Event(i, (error,), float(i), doubt=1.0, overlap=10) for i, error in enumerate(errors)]
        return [event.number for event in events if under_test.add(event)]

    assert started([*[4.0] * 7, 0.1, *[4.0] * 7]) == []
    assert started([4.0] * 8) == [7]
    assert started([9.9]) == []
    assert started([10.1]) == [0]


def test_an_event_without_a_verdict_neither_starts_nor_ends_an_incident() -> None:
    nan = float("nan")
    under_test = incidents()
    assert kinds(run([2, nan, nan, nan, nan], under_test)) == ["incident_started"]
    assert kinds(run([0, 0, 0], under_test)) == ["incident_ended"]


@given(st.lists(st.sampled_from([0.1, 0.7, 2.0, 9.0]), max_size=80))
def test_notices_alternate_and_count_every_event_above_the_threshold(scores: list[float]) -> None:
    under_test = incidents(flap_after=100, release=0.5)
    notices = run(scores, under_test) + under_test.end()
    assert kinds(notices) == ["incident_started", "incident_ended"] * (len(notices) // 2)
    ended = notices[1::2]
    assert sum(n.events for n in ended) == sum(score > 1 for score in scores)
    assert under_test.started == len(ended)
    for notice in ended:
        inside = scores[int(notice.started) : int(notice.ended or 0) + 1]
        assert notice.alert is not None and notice.alert.score == max(inside)


def test_an_incident_has_the_same_id_when_the_stream_is_read_again() -> None:
    assert [n.id for n in run([0, 2, 0])] == [n.id for n in run([0, 2, 0])]
    assert run([2])[0].id != run([0, 2])[0].id


def test_a_notice_is_a_json_object() -> None:
    packed = json.loads(run([2])[0].pack())
    assert packed["alert"]["causes"] == [{"feature": "cpu", "share": 1.0, "value": 2.0, "expected": 0.5}]
    assert (packed["kind"], packed["client"], packed["alert"]["version"]) == ("incident_started", "edge", 4)


def test_a_second_cause_is_an_incident_of_its_own_while_the_first_lasts() -> None:
    under_test = incidents()
    stuck, both = (9.0, 0.0, 0.0), (9.0, 5.0, 0.0)
    notices = run([stuck] * 4 + [both] * 3 + [stuck] * 4, under_test)
    assert leading(notices) == [
        ("incident_started", "cpu"),
        ("incident_started", "disk"),
        ("incident_ended", "disk"),
    ]
    assert (notices[2].events, notices[2].ended) == (3, 6.0)
    assert [incident.feature for incident in under_test.open] == ["cpu"]


def test_a_faint_second_cause_needs_two_events_in_a_row_however_clear_the_first_is() -> None:
    first, faint, clear = (100.0, 0.0), (100.0, 2.0), (100.0, 4.0)
    assert len(run([first] * 5 + [faint, first, faint, first], incidents(start_after=None))) == 1
    for second in ([faint, faint], [clear]):
        notices = run([first] * 5 + second, incidents(start_after=None))
        assert leading(notices) == [("incident_started", "cpu"), ("incident_started", "disk")]


def test_a_masked_window_is_no_second_cause_if_normal_windows_score_as_high_when_masked() -> None:
    both = [(9.0, 5.0, 0.0)] * 3
    cause = [("incident_started", "cpu")]
    assert leading(run([(9.0, 0.0, 0.0)] * 4 + both, usual=3.4)) == cause
    assert leading(run([(9.0, 0.0, 0.0)] * 4 + both, usual=3.2)) == [*cause, ("incident_started", "disk")]


def test_an_incident_exceeds_the_threshold_of_its_leading_feature() -> None:
    under_test = incidents()
    assert under_test.add(Event(0, (0.0, 0.0, 2.5), 0.0, heat_factor=3.0)) == []
    assert kinds(under_test.add(Event(1, (0.0, 0.0, 3.5), 1.0, heat_factor=3.0))) == ["incident_started"]
    assert kinds(incidents().add(Event(0, (0.0, 2.5, 0.0), 0.0, heat_factor=3.0))) == ["incident_started"]


def test_a_threshold_that_others_have_raised_does_not_end_an_incident() -> None:
    under_test = incidents(end_after=1)
    run([3.0, 3.0], under_test)
    under_test.open[0].limit = 1.4
    assert under_test.add(Event(2, (3.0,), 2.0, threshold=4.0)) == []
    assert [notice.kind for notice in under_test.add(Event(3, (1.3,), 3.0, threshold=4.0))] == [
        "incident_ended"
    ]


def test_an_incident_is_compared_with_the_threshold_of_a_new_version() -> None:
    under_test = incidents(end_after=1)
    run([3.0, 3.0], under_test)
    under_test.open[0].limit = 1.4
    under_test.version_changed()
    assert [notice.kind for notice in under_test.add(Event(2, (3.0,), 2.0, threshold=4.0))] == [
        "incident_ended"
    ]


def test_the_first_cause_ends_while_the_second_lasts() -> None:
    under_test = incidents()
    notices = run([(9.0, 0.0, 0.0)] * 2 + [(9.0, 5.0, 0.0)] * 3 + [(0.0, 5.0, 0.0)] * 4, under_test)
    assert leading(notices)[-1] == ("incident_ended", "cpu")
    assert [incident.feature for incident in under_test.open] == ["disk"]


@pytest.mark.parametrize(("level", "doubt", "starts"), [(2.0, 1.0, 0), (0.6, 1.0, 1), (2.0, 0.0, 1)])
def test_without_evidence_what_rises_slowly_is_no_incident(level: float, doubt: float, starts: int) -> None:
    under_test = Incidents("edge", LiveSettings())
    events = [Event(i, (4.0,), float(i), doubt=doubt, level=level) for i in range(3)]
    assert len([notice for event in events for notice in under_test.add(event)]) == starts
    assert under_test.drifted is not bool(starts)


def test_a_fault_that_spreads_within_a_window_is_one_incident() -> None:
    under_test = incidents()
    spreading = [(9.0, 0.0, 0.0), (9.0, 5.0, 0.0), (9.0, 5.0, 5.0)] + [(9.0, 5.0, 5.0)] * 20
    assert leading(run(spreading, under_test, overlap=4)) == [("incident_started", "cpu")]
    assert set(under_test.open[0].features) == {0, 1, 2}


def test_at_most_three_incidents_are_open() -> None:
    under_test = incidents()
    spreading = [(9.0, *(5.0 if k < i else 0.0 for k in range(3))) for i in range(4) for _ in range(2)]
    run(spreading, under_test)
    assert [incident.feature for incident in under_test.open] == ["cpu", "disk", "heat"]


GLITCH = [2.0, 0.0, 0.0, 0.0]


def test_a_feature_that_flaps_is_reported_once_and_then_not_until_a_quiet_day() -> None:
    under_test = incidents(flap_after=3)
    notices = run(GLITCH * 50, under_test, step_s=240.0)
    assert kinds(notices) == ["incident_started", "incident_ended"] * 3 + ["flapping"]
    assert notices[-1].text is not None and "cpu flaps: incident 4 within a day" in notices[-1].text
    assert under_test.started == 3
    assert under_test.flapping.features(200 * 240.0) == ["cpu"]
    a_day_later = 200 + 24 * 15
    assert under_test.flapping.features(a_day_later * 240.0) == []
    assert kinds(run(GLITCH, under_test, 240.0, a_day_later)) == ["incident_started", "incident_ended"]


@pytest.mark.parametrize("outage", [[2.0] * 90, [6.0]])
def test_an_outage_is_reported_although_its_feature_flaps(outage: list[float]) -> None:
    under_test = incidents(flap_after=3)
    run(GLITCH * 10, under_test, step_s=240.0)
    notices = run([*outage, 0.0, 0.0, 0.0], under_test, step_s=240.0, first=40)
    assert kinds(notices) == ["incident_started", "incident_ended"]
    assert notices[0].text is not None and "cpu flaps, but this incident is much worse" in notices[0].text
    assert notices[0].events == min(len(outage), MIN_WORSE_EVENTS)
    assert (notices[1].id, notices[1].events) == (notices[0].id, len(outage))
    assert under_test.started == 4


def test_while_a_feature_flaps_an_outage_like_the_last_one_is_not_reported_again() -> None:
    under_test = incidents(flap_after=3)
    outage = [*[2.0] * 30, 0.0, 0.0, 0.0]
    notices = run([*GLITCH * 10, *outage * 5], under_test, step_s=60.0)
    assert kinds(notices) == ["incident_started", "incident_ended"] * 3 + ["flapping"] + [
        "incident_started", "incident_ended",
    ]  # fmt: skip


def test_another_feature_is_reported_while_one_flaps() -> None:
    under_test = incidents(flap_after=1)
    run(GLITCH * 5, under_test)
    assert leading(run([(0.0, 2.0, 0.0), *[(0.0, 0.0, 0.0)] * 3], under_test, first=20)) == [
        ("incident_started", "disk"),
        ("incident_ended", "disk"),
    ]


def test_incidents_days_apart_do_not_flap() -> None:
    assert "flapping" not in kinds(run(GLITCH * 10, step_s=8 * HOUR_S))


def test_an_incident_that_lasts_is_reported_as_a_changed_regime_once() -> None:
    under_test = incidents(adapt_after_s=24 * HOUR_S)
    notices = run([2.0] * 200, under_test, step_s=300.0)
    assert kinds(notices) == ["incident_started", "regime_changed"]
    changed = notices[1]
    assert changed.text is not None and "cpu has been unusual for 6 h" in changed.text
    assert under_test.lasting() == ()
    run([2.0] * 100, under_test, step_s=300.0, first=200)
    assert under_test.lasting() == under_test.open


@pytest.mark.parametrize(
    ("errors", "words"),
    [([2.0, 2.5], "this looks like a new normal state"), ([2.5], "it stands at 2.5, as a stuck sensor does")],
)
def test_a_changed_regime_says_whether_the_value_varies(errors: list[float], words: str) -> None:
    text = run(errors * (200 // len(errors)), incidents(), step_s=300.0)[1].text
    assert text is not None and words in text


def test_two_alerts_around_a_gap_are_not_a_lasting_incident() -> None:
    under_test = incidents()
    assert kinds(run([2.0, 2.0], under_test, step_s=48 * HOUR_S)) == ["incident_started"]
    assert under_test.lasting() == ()


@pytest.mark.parametrize("jump_s", [30 * HOUR_S, -10 * 365 * 24 * HOUR_S])
def test_a_jump_of_the_streams_clock_neither_makes_an_incident_last_nor_keeps_it_from_lasting(
    jump_s: float,
) -> None:
    under_test = incidents(adapt_after_s=24 * HOUR_S)
    run([2.0] * 20, under_test, step_s=300.0)
    run([2.0] * 20, under_test, step_s=300.0, first=20 + round(jump_s / 300.0))
    assert under_test.lasting() == ()
    run([2.0] * 260, under_test, step_s=300.0, first=40 + round(jump_s / 300.0))
    assert under_test.lasting() == under_test.open


def test_without_adaptation_an_incident_lasts_as_long_as_it_does() -> None:
    under_test = incidents(adapt_after_s=None)
    assert kinds(run([2.0] * 500, under_test, step_s=HOUR_S)) == ["incident_started"]
    assert under_test.lasting() == ()


def test_adapting_ends_the_chosen_incidents() -> None:
    under_test = incidents()
    run([(9.0, 0.0, 0.0), (9.0, 5.0, 0.0)], under_test)
    first, second = under_test.open
    (notice,) = under_test.adapt([first.id, "ended meanwhile"], "normal from here on: cpu +3")
    assert (notice.kind, notice.id, notice.text) == ("adapted", first.id, "normal from here on: cpu +3")
    assert under_test.open == (second,)


def test_an_unreported_incident_that_lasts_is_reported_and_then_a_changed_regime() -> None:
    under_test = incidents(flap_after=1)
    run(GLITCH * 2, under_test, step_s=300.0)
    notices = run([2.0] * 100, under_test, step_s=300.0, first=8)
    assert kinds(notices) == ["incident_started", "regime_changed"]
