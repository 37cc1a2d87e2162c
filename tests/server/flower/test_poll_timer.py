from __future__ import annotations

import pytest

from server.flower.grid import MAX_POLL_S, MIN_POLL_S, PollTimer


def test_the_wait_grows_with_the_time_since_the_last_reply() -> None:
    timer = PollTimer(now=100.0, streaming=False)
    waits = [timer.wait_s(100.0 + s) for s in (0.0, 1.0, 2.0, 60.0)]
    assert waits == pytest.approx([MIN_POLL_S, 0.05, 0.1, MAX_POLL_S])
    timer.received(0, 160.0)
    assert timer.wait_s(160.0) == MAX_POLL_S
    timer.received(1, 160.0)
    assert timer.wait_s(160.0) == MIN_POLL_S


def test_replies_that_come_one_by_one_are_polled_for_at_half_of_their_interval() -> None:
    rounds, stream = (PollTimer(now=0.0, streaming=streaming) for streaming in (False, True))
    for timer in (rounds, stream):
        for second in range(1, 101):
            timer.received(5, float(second))
    assert rounds.wait_s(100.0) == MIN_POLL_S
    assert stream.wait_s(100.0) == pytest.approx(0.1, rel=0.01)
