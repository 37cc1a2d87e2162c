from __future__ import annotations

from client.detection.flapping import DAY_S, Flapping


def test_a_feature_flaps_from_one_more_than_the_reported_incidents_until_a_quiet_day() -> None:
    under_test = Flapping(after=2)
    assert [under_test.add("cpu", hour * 3600.0) for hour in range(5)] == [
        "steady", "steady", "starts", "flaps", "flaps",
    ]  # fmt: skip
    assert under_test.features(4 * 3600.0 + DAY_S - 1) == ["cpu"]
    assert under_test.add("cpu", 4 * 3600.0 + DAY_S) == "steady"


def test_incidents_of_other_features_and_older_ones_do_not_count() -> None:
    under_test = Flapping(after=1)
    assert under_test.add("cpu", 0.0) == "steady"
    assert under_test.add("disk", 1.0) == "steady"
    assert under_test.add("cpu", DAY_S) == "steady"
    assert under_test.features(DAY_S) == []


def test_a_long_incident_keeps_its_feature_flapping() -> None:
    under_test = Flapping(after=1)
    under_test.add("cpu", 0.0)
    assert under_test.add("cpu", 1.0) == "starts"
    under_test.ended("cpu", DAY_S, events=1, score=1.0)
    under_test.ended("disk", DAY_S, events=1, score=1.0)
    assert under_test.features(2 * DAY_S - 1) == ["cpu"]


def test_a_clock_that_was_years_ahead_and_is_set_back_hides_no_later_fault() -> None:
    under_test = Flapping(after=1)
    ahead = 3650 * DAY_S
    assert [under_test.add("cpu", ahead + hour * 3600.0) for hour in range(2)] == ["steady", "starts"]
    assert under_test.features(0.0) == []
    assert under_test.add("cpu", 0.0) == "steady"


def test_an_incident_is_worse_with_many_times_the_alerts_or_the_score_of_all_before() -> None:
    under_test = Flapping(after=1)
    under_test.add("cpu", 0.0)
    under_test.ended("cpu", 1.0, events=4, score=9.0)
    under_test.ended("cpu", 3.0, events=7, score=5.0)
    assert not under_test.is_worse("cpu", events=20, score=26.9)
    assert under_test.is_worse("cpu", events=21, score=1.0)
    assert under_test.is_worse("cpu", events=1, score=27.0)
    assert not under_test.is_worse("disk", events=1000, score=1e9)


def test_incidents_older_than_a_day_are_no_measure() -> None:
    under_test = Flapping(after=1)
    under_test.add("cpu", 0.0)
    under_test.ended("cpu", 1.0, events=1000, score=9.0)
    under_test.add("cpu", 2 * DAY_S)
    under_test.ended("cpu", 2 * DAY_S, events=2, score=9.0)
    assert not under_test.is_worse("cpu", events=9, score=9.0)
    assert under_test.is_worse("cpu", events=10, score=9.0)


def test_after_a_quiet_day_an_incident_that_ends_does_not_make_its_feature_flap_again() -> None:
    under_test = Flapping(after=1)
    for time in (0.0, 1.0):
        under_test.add("cpu", time)
        under_test.ended("cpu", time, events=1, score=1.0)
    assert under_test.add("cpu", 2 * DAY_S) == "steady"
    under_test.ended("cpu", 2 * DAY_S, events=1, score=1.0)
    assert under_test.features(2 * DAY_S) == []
