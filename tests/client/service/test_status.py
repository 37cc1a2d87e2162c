from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import replace
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from client.maintenance.evidence import Evidence
from client.service.latency import LatencyHistogram
from client.service.status import STUCK_S, DetectorStatusServer, SinkQueue, Status, health
from common.learning import Learning

LATENCY = LatencyHistogram()
LATENCY.add(12_000, 90)
LATENCY.add(900_000, 10)
STATUS = Status(
    client="edge", version=7, pinned=False, threshold=1.5, score=0.25, events=1000, refused={"not_json": 3},
    alerts=4, incidents=2, open_incidents=("cpu",), flapping=("net",), moved=("temp",),
    evidence=Evidence("1 per day", 180, 60.0), warm_up=Learning(12, 30), drifted=False, swaps=6, refusals=1,
    trainer_restarts=2,
    trainer_memory_bytes=5 << 20, buffered=800, since_turn_s=0.1, queues=(SinkQueue("file:x", 1, 2, 3),),
    latency=LATENCY, learning=Learning(312, 500, per_s=1.0),
)  # fmt: skip


def get(server: DetectorStatusServer, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
        return answer.read()


def test_prometheus_reads_the_current_state() -> None:
    server = DetectorStatusServer("127.0.0.1", 0, lambda: STATUS)
    try:
        text = get(server, "/metrics").decode()
        body = json.loads(get(server, "/healthz?verbose"))
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server, "/")
        caught.value.close()
    finally:
        server.close()
    result = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ("flockwatch_events_total",): 1000, ("flockwatch_events_refused_total", "not_json"): 3,
        ("flockwatch_score",): 0.25, ("flockwatch_threshold",): 1.5, ("flockwatch_alerts_total",): 4,
        ("flockwatch_incidents_total",): 2, ("flockwatch_incident_open",): 1, ("flockwatch_version",): 7,
        ("flockwatch_version_swaps_total",): 6, ("flockwatch_version_refusals_total",): 1,
        ("flockwatch_notices_waiting", "file:x"): 1, ("flockwatch_notices_delivered_total", "file:x"): 2,
        ("flockwatch_notices_lost_total", "file:x"): 3, ("flockwatch_trainer_restarts_total",): 2,
        ("flockwatch_trainer_memory_bytes",): 5 << 20, ("flockwatch_buffered_events",): 800,
        ("flockwatch_learning_wanted_events",): 500,
        ("flockwatch_features_flapping",): 1, ("flockwatch_features_adapted",): 1,
        ("flockwatch_evidence_seconds",): 10800, ("flockwatch_evidence_needed_seconds",): 172800,
        ("flockwatch_warm_up_events_missing",): 18,
        ("flockwatch_latency_seconds_count",): 100, ("flockwatch_latency_seconds_bucket", "+Inf"): 100,
        ("flockwatch_latency_seconds_bucket", repr(2**14 / 1e9)): 90,
    }  # fmt: skip
    assert {key: result.get(key) for key in expected} == expected
    assert result[("flockwatch_latency_seconds_sum",)] == pytest.approx(90 * 12e-6 + 10 * 900e-6)
    assert (body["status"], body["version"], body["refused"]) == ("ok", 7, {"not_json": 3})
    assert body["latency_us"] == {"p50": pytest.approx(12.288), "p99": pytest.approx(917.504)}
    assert body["evidence"] == "1 per day needs 2 days of events, has 3 hours"
    assert (body["provisional"], body["open_incidents"], body["flapping"]) == (True, ["cpu"], ["net"])
    assert (body["adapted"], body["incident_open"]) == (["temp"], True)
    assert body["warm_up"] == {"events": 12, "wanted": 30}
    assert caught.value.code == 404


def test_health_names_problems_and_fails_only_where_the_loop_is_stuck() -> None:
    code, body = health(replace(STATUS, problems=("trainer ended",)))
    assert (code, json.loads(body)["status"]) == (HTTPStatus.OK, "degraded")
    assert json.loads(body)["problems"] == ["trainer ended"]
    code, body = health(replace(STATUS, since_turn_s=STUCK_S + 1))
    assert (code, json.loads(body)["status"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "stuck")
    code, body = health(replace(STATUS, version=None, threshold=None, score=None, latency=LatencyHistogram()))
    assert code == HTTPStatus.OK


def test_an_address_in_use_is_an_error() -> None:
    server = DetectorStatusServer("127.0.0.1", 0, lambda: STATUS)
    try:
        with pytest.raises(OSError):
            DetectorStatusServer("127.0.0.1", int(server.port), lambda: STATUS)
    finally:
        server.close()


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 50)), min_size=1, max_size=20),
    st.floats(0.01, 1),
)
def test_a_quantile_of_the_latency_is_off_by_a_quarter_at_most(
    samples: list[tuple[int, int]], rank: float
) -> None:
    latency = LatencyHistogram()
    times = sorted(ns for ns, events in samples for _ in range(events))
    for ns, events in samples:
        latency.add(ns, events)
    exact = times[min(len(times) - 1, max(0, -int(-rank * len(times) // 1) - 1))]
    result = latency.quantile_s(rank)
    assert result is not None
    assert exact <= result * 1e9 <= max(1, 1.25 * exact)


def test_the_health_says_how_far_a_client_has_come_towards_training() -> None:
    assert json.loads(health(STATUS)[1])["learning"] == {
        "events": 312,
        "wanted": 500,
        "remaining_s": 188,
        "text": "learning 312 of 500 events, about 3 minutes",
    }
    assert json.loads(health(replace(STATUS, learning=Learning(500, 500)))[1])["learning"] is None
    assert json.loads(health(replace(STATUS, learning=None))[1])["learning"] is None
