from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.buffers.recent_events import ABNORMAL, NORMAL, UNREPORTED
from client.detection.adaptive_threshold import RISE, AdaptiveThreshold
from client.detection.detector import QUIET_EVENTS, Detector, Verdict
from common.model.moments import Scaler
from common.model.scoring import version_scores
from common.settings import DataSettings, LiveSettings
from tests.client.sample_versions import SCHEMA, lines, rows, version


def detector(**live: object) -> Detector:
    return Detector("edge", SCHEMA, DataSettings(), LiveSettings(**live))  # type: ignore[arg-type]


def feed(of: Detector, events: list[bytes], size: int, now: float = 5.0) -> list[Verdict]:
    result = []
    for start in range(0, len(events), size):
        result += of.step(events[start : start + size], now).verdicts
    return result


@pytest.mark.parametrize("size", [1, 3, 64, 256])
@pytest.mark.parametrize("window", [1, 4])
def test_every_event_gets_the_score_of_the_window_it_ends(size: int, window: int) -> None:
    manifest, events = version(window=window), rows(700)
    under_test = detector()
    under_test.activate(manifest, threshold=1e9)
    result = feed(under_test, lines(events), size)
    expected = version_scores(manifest, Scaler.of(manifest.moments).apply(events))
    assert [v.time for v in result] == [1e9 + 60.0 * i for i in range(700)]
    assert all(math.isnan(v.score) for v in result[: window - 1])
    np.testing.assert_allclose([v.score for v in result[window - 1 :]], expected, rtol=1e-3)
    assert {v.version for v in result} == {1}
    assert not any(v.anomaly for v in result)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.lists(st.integers(1, 256), min_size=1, max_size=12), st.data())
def test_swaps_lose_no_event_and_no_window(window: int, sizes: list[int], data: st.DataObject) -> None:
    versions = [version(n, window=window, seed=n) for n in range(1, 4)]
    events = rows(sum(sizes))
    scaled = Scaler.of(versions[0].moments).apply(events)
    expected = {v.version: version_scores(v, scaled) for v in versions}
    under_test, result = detector(), []
    under_test.activate(versions[0], 1e9)
    waiting = lines(events)
    for size in sizes:
        if data.draw(st.booleans()):
            under_test.activate(data.draw(st.sampled_from(versions)), 1e9)
        result += under_test.step(waiting[:size], 0.0).verdicts
        waiting = waiting[size:]
    assert [v.time for v in result] == [1e9 + 60.0 * i for i in range(len(events))]
    for i, verdict in enumerate(result):
        if i >= window - 1:
            assert verdict.score == pytest.approx(expected[verdict.version][i - window + 1], rel=1e-3)
        else:
            assert math.isnan(verdict.score)


def test_ten_swaps_from_another_thread_in_a_million_events_lose_none() -> None:
    versions = [version(n, seed=n) for n in range(1, 12)]
    batch = lines(rows(256))
    under_test = detector()
    under_test.activate(versions[0], 1e9)
    swapping, swapped = threading.Semaphore(0), threading.Semaphore(0)

    def swap() -> None:
        for manifest in versions[1:]:
            swapping.acquire()
            under_test.activate(manifest, 1e9)
            swapped.release()

    thread = threading.Thread(target=swap)
    thread.start()
    counts: dict[int, int] = {}
    order: list[int] = []
    for number in range(3907):  # 1,000,192 events
        if number % 350 == 175:
            swapping.release()
        if number % 350 == 174 and number > 174:  # at any of the steps before, but not later
            assert swapped.acquire(timeout=60)
        result = under_test.step(batch, 0.0).verdicts
        assert len(result) == 256
        assert len({v.version for v in result}) == 1
        used = result[0].version
        counts[used] = counts.get(used, 0) + 256
        if not order or order[-1] != used:
            order.append(used)
    thread.join(60)
    assert not thread.is_alive()
    assert sum(counts.values()) == under_test.recent.count == 1_000_192
    assert order == list(range(1, 12))


def test_without_a_version_events_are_kept_and_not_scored() -> None:
    under_test = detector()
    result = feed(under_test, lines(rows(10)), 1)
    assert all(math.isnan(v.score) and v.version == 0 and not v.anomaly for v in result)
    np.testing.assert_allclose(under_test.recent.last(10), rows(10), rtol=1e-6)
    under_test.activate(version(), 1e9)
    assert feed(under_test, lines(rows(1)), 1)[0].version == 1


@pytest.mark.parametrize("size", [1, 50])
def test_a_fault_is_reported_once_with_its_cause_and_once_when_it_is_over(size: int) -> None:
    events = rows(300)
    events[100:110, 1] += 500
    under_test = detector(explain=2, end_after=5)
    under_test.activate(version(), threshold=20.0)
    notices = []
    waiting = lines(events)
    for start in range(0, 300, size):
        notices += under_test.step(waiting[start : start + size], 0.0).notices
    assert [n.kind for n in notices] == ["incident_started", "incident_ended"]
    started, ended = notices
    assert started.started == started.alert.time == 1e9 + 60 * 100
    assert (ended.ended, ended.events) == (1e9 + 60 * 109, 10)
    assert [len(n.alert.causes) for n in notices] == [2, 2]
    cause = started.alert.causes[0]
    assert cause.feature == "b"
    assert cause.value == pytest.approx(events[100, 1], rel=1e-5)
    assert abs(cause.expected - cause.value) > 100
    assert started.alert.version == 1
    assert under_test.alerts == 10
    flags = under_test.recent.since(0).flags
    assert (flags[100:114] == ABNORMAL).all()
    assert (flags[:100] == NORMAL).all()
    assert (flags[115:] == NORMAL).all()


@pytest.mark.parametrize("size", [1, 8])
def test_lines_that_are_not_events_are_counted_and_the_others_are_scored(size: int) -> None:
    good = lines(rows(40))
    bad = [
        b"{",
        b'{"d":1}',
        b"\xff",
        b'{"a":1,"b":"2 m","c":3}',
        b'{"a":NaN}',
        b"[1,2]",
        b"x" * (2 << 20),
    ]
    mixed = [line for i, line in enumerate(good) for line in ((bad[i], line) if i < len(bad) else (line,))]
    under_test = detector()
    under_test.activate(version(), 1e9)
    outcomes = [under_test.step(mixed[i : i + size], 0.0) for i in range(0, len(mixed), size)]
    assert [v.time for o in outcomes for v in o.verdicts] == [1e9 + 60 * i for i in range(40)]
    assert dict(under_test.refused) == {
        "not_json": 1,
        "missing_feature": 2,
        "not_utf8": 1,
        "number_as_text": 1,
        "not_finite": 1,
        "too_long": 1,
    }
    assert sum(len(o.refused) for o in outcomes) == 7


def test_events_without_a_time_have_the_time_they_came() -> None:
    under_test = detector()
    assert [v.time for v in under_test.step([b"[1,2,3]"], 77.0).verdicts] == [77.0]
    assert [v.time for v in under_test.step([b"[1,2,3]"] * 9, 78.0).verdicts] == [78.0] * 9


def test_a_clock_that_goes_back_stops_nothing() -> None:
    under_test = detector()
    under_test.activate(version(), 0.0)
    back = lines(rows(5), start=1e9) + lines(rows(5), start=1e8)
    assert len(feed(under_test, back, 1)) == 10
    assert under_test.incidents.open


def faults(seed: int = 0) -> list[bytes]:
    events = rows(40, seed)
    events[10:20, 1] += 500
    return lines(events, start=1e9 + 60 * 40 * seed)


def test_an_incident_raises_the_threshold_and_quiet_events_lower_it() -> None:
    under_test = detector()
    limit = AdaptiveThreshold(20.0, (10.0, 100.0), rate=0.01)
    under_test.activate(version(), limit)
    events = faults()
    feed(under_test, events[:15], 1)
    assert limit.value == pytest.approx(20.0 * math.exp(RISE), rel=1e-6)
    feed(under_test, events[15:], 1)
    raised = limit.value  # a part of the rise is taken back when the incident ends
    assert 20.0 < raised < 20.0 * math.exp(RISE)
    feed(under_test, faults()[:10], 1)  # 27 events before were quiet, and the threshold falls once for 32
    assert limit.value == pytest.approx(raised * math.exp(-RISE * 0.01 * QUIET_EVENTS), rel=1e-6)


def test_an_open_incident_ends_at_the_threshold_of_its_start_and_its_own_rise() -> None:
    under_test = detector()
    under_test.activate(version(), AdaptiveThreshold(20.0, (10.0, 100.0), rate=0.01))
    feed(under_test, faults()[:15], 1)
    assert [incident.limit for incident in under_test.incidents.open] == [
        pytest.approx(20.0 * math.exp(RISE))
    ]


def test_an_event_that_is_usual_for_its_leading_feature_is_normal_and_quiet() -> None:
    under_test = detector()
    limit = AdaptiveThreshold(20.0, (10.0, 1e9), rate=0.01)
    under_test.activate(version(), limit)
    for _ in range(100):
        limit.incident_started("b")
    limit.value = 20.0
    raised = limit.of_cause("b")
    feed(under_test, lines(rows(40, seed=1) + np.array([0, 150, 0], np.float32)), 1)
    assert 20.0 < np.nanmedian(under_test.recent.since(0).scores) < raised
    assert not under_test.incidents.open
    assert set(under_test.recent.since(0).flags.tolist()) == {NORMAL}
    assert limit.of_cause("b") < raised


def test_events_of_an_incident_that_is_not_reported_are_marked_so() -> None:
    under_test = detector(flap_after=1)
    under_test.activate(version(), 20.0)
    notices = [n.kind for seed in range(3) for n in under_test.step(faults(seed), 0.0).notices]
    assert notices == ["incident_started", "incident_ended", "flapping"]
    flags = under_test.recent.since(0).flags
    assert [set(flags[40 * i + 10 : 40 * i + 23].tolist()) for i in range(3)] == [
        {ABNORMAL}, {UNREPORTED}, {UNREPORTED},
    ]  # fmt: skip


@pytest.mark.parametrize(("covered", "flag"), [(0.1, UNREPORTED), (1.0, ABNORMAL)])
def test_a_faint_event_above_a_doubtful_threshold_is_left_out_alone(covered: float, flag: int) -> None:
    under_test, made, events = detector(), version(), rows(30)
    scores = version_scores(made, Scaler.of(made.moments).apply(events))
    *_, second, highest = np.sort(scores)
    under_test.activate(made, AdaptiveThreshold(float(second + highest) / 2, rate=0.01, covered=covered))
    feed(under_test, lines(events), 1)
    flags = np.where(scores == highest, flag, NORMAL)
    assert under_test.recent.since(0).flags.tolist() == flags.tolist()


def test_a_slow_change_without_evidence_raises_the_threshold_and_is_no_incident() -> None:
    growing = rows(900, seed=3) + np.outer(np.arange(900), [0.03, 0.3, 0.003]).astype(np.float32)
    limit = AdaptiveThreshold(20.0, (1.0, 1e9), rate=1e-5, covered=1e-4)
    under_test = detector()
    under_test.activate(version(window=10), limit)
    feed(under_test, lines(growing), 1)
    assert not under_test.incidents.started
    assert limit.value > np.nanmedian(under_test.recent.since(800).scores) > 20.0
    growing[-40:, 1] += 10_000
    feed(under_test, lines(growing[-60:]), 1)
    assert under_test.incidents.started == 1


def test_a_version_that_was_adapted_ends_its_incidents_with_the_next_event() -> None:
    under_test = detector()
    under_test.activate(version(), 20.0)
    under_test.step(faults()[:15], 0.0)
    (incident,) = under_test.incidents.open
    under_test.activate(version(), 1e9, [incident.id], "normal from here on: b +500")
    assert not under_test.settled
    (notice,) = under_test.step(faults()[15:16], 0.0).notices
    assert under_test.settled
    assert (notice.kind, notice.id, notice.text) == ("adapted", incident.id, "normal from here on: b +500")
    assert under_test.incidents.open == ()


def test_at_the_end_of_the_stream_open_incidents_end() -> None:
    under_test = detector()
    under_test.activate(version(), 20.0)
    under_test.step(faults()[:15], 0.0)
    assert [notice.kind for notice in under_test.end()] == ["incident_ended"]
    assert under_test.end() == []
