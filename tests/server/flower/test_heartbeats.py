from __future__ import annotations

import numpy as np
import pytest

from client.transport.fleet_connection import HEARTBEAT_INTERVAL_S
from client.transport.polling import MIN_HEARTBEAT_S, heartbeat_wait_s
from server.flower.heartbeats import MAX_MISSED, MIN_BEATS, MIN_SILENCE_S, HeartbeatMonitor


def beating(every_s: float, beats: int = 10) -> tuple[HeartbeatMonitor, float, float]:
    """Return a monitor that has seen regular heartbeats of node 1, the last stamp, and the time."""
    monitor, now = HeartbeatMonitor(), 100.0
    for i in range(beats):
        now = 100.0 + i * every_s
        monitor.alive({1: float(i)}, now)
    return monitor, float(beats - 1), now


@pytest.mark.parametrize(
    ("every_s", "limit_s"), [(0.5, MIN_SILENCE_S), (2.0, MIN_SILENCE_S), (5.0, 5.0 * MAX_MISSED)]
)
def test_a_node_is_gone_after_it_missed_some_beats_of_its_own_rhythm(every_s: float, limit_s: float) -> None:
    monitor, stamp, now = beating(every_s)
    assert monitor.alive({1: stamp}, now + limit_s - 0.1) == {1}
    assert monitor.alive({1: stamp}, now + limit_s + 0.1) == set()
    assert monitor.alive({1: stamp + 1}, now + limit_s + 0.2) == {1}


def test_a_node_whose_rhythm_is_not_known_yet_is_believed_to_live() -> None:
    monitor, stamp, now = beating(2.0, MIN_BEATS)
    assert monitor.alive({1: stamp}, now + 1000) == {1}


def test_nodes_without_beats_live_as_long_as_they_are_listed() -> None:
    monitor = HeartbeatMonitor()
    assert monitor.alive({1: None, 2: None}, 0.0) == {1, 2}
    assert monitor.alive({2: None}, 1e6) == {2}


def test_a_server_clock_that_jumps_disconnects_no_client() -> None:
    monitor, _, now = beating(2.0)
    assert monitor.alive({1: -1e9}, now + 2) == {1}


def test_nodes_that_left_the_list_are_forgotten() -> None:
    monitor = HeartbeatMonitor()
    for i in range(1000):
        monitor.alive({i: 1.0}, float(i))
    assert len(monitor._nodes) == 1


@pytest.mark.parametrize("took_s", [0.01, 0.1, 0.5, 3.0])
def test_a_client_whose_heartbeats_become_slow_at_once_is_alive_throughout(took_s: float) -> None:
    """After one slow heartbeat the next came 8 s later, and a client that was training counted as gone."""
    monitor, stamp, wait_s = HeartbeatMonitor(), 0.0, MIN_HEARTBEAT_S
    for beat in range(20):
        took = 0.01 if beat < 5 else took_s
        for second in np.arange(stamp, stamp + wait_s + took, 0.1):
            assert monitor.alive({1: stamp}, second) == {1}
        stamp += wait_s + took
        wait_s = heartbeat_wait_s(took, wait_s, HEARTBEAT_INTERVAL_S)
