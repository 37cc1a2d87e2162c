from __future__ import annotations

import pytest

from server.federation.heartbeats import MIN_BEATS, MIN_SILENCE_S, MISSED, HeartbeatMonitor


def beating(every_s: float, beats: int = 10) -> tuple[HeartbeatMonitor, float, float]:
    """A pulse that has seen node 1 beat regularly: with its last stamp, and the time."""
    pulse, now = HeartbeatMonitor(), 100.0
    for i in range(beats):
        now = 100.0 + i * every_s
        pulse.alive({1: float(i)}, now)
    return pulse, float(beats - 1), now


@pytest.mark.parametrize(
    ("every_s", "limit_s"), [(0.5, MIN_SILENCE_S), (2.0, MIN_SILENCE_S), (5.0, 5.0 * MISSED)]
)
def test_a_node_is_gone_after_it_missed_some_beats_of_its_own_rhythm(every_s: float, limit_s: float) -> None:
    pulse, stamp, now = beating(every_s)
    assert pulse.alive({1: stamp}, now + limit_s - 0.1) == {1}
    assert pulse.alive({1: stamp}, now + limit_s + 0.1) == set()
    assert pulse.alive({1: stamp + 1}, now + limit_s + 0.2) == {1}


def test_a_node_whose_rhythm_is_not_known_yet_is_believed_to_live() -> None:
    pulse, stamp, now = beating(2.0, MIN_BEATS)
    assert pulse.alive({1: stamp}, now + 1000) == {1}


def test_nodes_without_beats_live_as_long_as_they_are_listed() -> None:
    pulse = HeartbeatMonitor()
    assert pulse.alive({1: None, 2: None}, 0.0) == {1, 2}
    assert pulse.alive({2: None}, 1e6) == {2}


def test_a_server_clock_that_jumps_is_no_reason_to_take_anybody_for_gone() -> None:
    pulse, _, now = beating(2.0)
    assert pulse.alive({1: -1e9}, now + 2) == {1}


def test_nodes_that_left_the_list_are_forgotten() -> None:
    pulse = HeartbeatMonitor()
    for i in range(1000):
        pulse.alive({i: 1.0}, float(i))
    assert len(pulse._rhythms) == 1
