"""The coordinator of a server that runs until it is stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server.coordination.clients import REFRESH_S
from server.coordination.events import Described
from server.coordination.state import State, resumed
from tests.server.coordination.test_coordinator import (
    FEATURES,
    Abandoned,
    Aggregating,
    Asked,
    Run,
    Sent,
    decisions,
    of_kind,
    saved,
)
from tests.server.descriptions import description

PACE_S = 600.0


def serving(**rules: Any) -> Run:
    """Return a run without end, whose error never improves after its first rounds."""
    run = Run(**{"max_rounds": None, "patience": 2, "converged_interval_s": PACE_S, **rules})
    run.errors = iter([1.0] * 1000)
    return run


def converged(**rules: Any) -> Run:
    """Return a run of the clients `a` and `b` that has just converged."""
    run = serving(**rules)
    run.join("a", "b")
    for _ in range(3):
        run.after(max(0.0, run.state.next_version_at - run.now))
        run.answer(1, 2)
    assert run.state.has_converged(2)
    return run


def test_a_converged_federation_continues_at_a_slow_pace() -> None:
    run = converged()
    version = run.state.version
    assert decisions(run.after(PACE_S - 1)) == []
    assert run.waiting() == (
        "converged, no improvement in 2 rounds: the next version follows in 1 s, or at once for a new client "
        "or one that reports drift"
    )
    assert decisions(run.after(1)) == [Sent("train", (1, 2))]
    run.answer(1, 2)
    assert run.state.version == version + 1
    assert decisions(run.after(PACE_S - 1)) == []
    assert decisions(run.after(1)) == [Sent("train", (1, 2))]


def test_the_pace_of_a_server_that_learns_is_the_interval() -> None:
    run = serving(interval_s=30)
    run.join("a", "b")
    run.answer(1, 2)
    assert run.waiting() == "the next version follows in 30 s"
    assert decisions(run.after(30)) == [Sent("train", (1, 2))]


def test_the_longer_interval_counts_while_converged() -> None:
    run = converged(interval_s=2 * PACE_S)
    run.now = run.state.next_version_at
    run.after(0)
    run.answer(1, 2)
    assert decisions(run.after(PACE_S)) == []
    assert decisions(run.after(PACE_S)) == [Sent("train", (1, 2))]


def test_a_new_client_begins_a_round_at_once_and_training_continues_until_it_has_converged_again() -> None:
    run = converged()
    result = run.join("c")
    assert Sent("train", (1, 2, 3)) in result
    assert Sent("train", (1, 2, 3)) in run.answer(1, 2, 3)
    assert not run.state.has_converged(2)
    run.answer(1, 2, 3)
    run.answer(1, 2, 3)
    assert run.state.has_converged(2)
    assert decisions(run.after(PACE_S - 1)) == []


def test_twice_as_many_rows_begin_a_round_at_once() -> None:
    run = converged()
    trained = run.state.clients[1].trained_rows
    for rows, woken in ((trained + 1, False), (2 * trained, True)):
        run.after(REFRESH_S)
        grown = description("a", "instance of a", FEATURES, rows=rows)
        result = decisions(run.do(Described(1, run.requests[1], grown)))
        assert result == ([Sent("train", (1, 2))] if woken else [])


def test_errors_on_half_of_the_rows_do_not_compare_with_those_on_all() -> None:
    run = converged()
    run.errors = iter([9.0, 8.0, 7.0, 6.0, 6.0, 6.0])  # the later rows are harder
    run.after(REFRESH_S)
    trained = run.state.clients[1].trained_rows
    run.do(Described(1, run.requests[1], description("a", "instance of a", FEATURES, rows=2 * trained)))
    for _ in range(6):
        assert not run.state.has_converged(2)
        run.answer(1, 2)
    assert run.state.has_converged(2)


def test_earlier_errors_do_not_compare_with_those_of_a_new_client() -> None:
    run = converged()
    run.errors = iter([9.0, 8.0, 7.0, 6.0])  # the new client's data are harder, and learned round by round
    run.join("c")
    for _ in range(4):
        run.answer(1, 2, 3)
        assert not run.state.has_converged(2)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_after_the_first_convergence_a_client_trains_for_a_share_of_its_time_at_most(share: float) -> None:
    task_s = 3.0
    run = serving(training_share=share, patience=3)
    run.errors = iter([8.0, 7.0, 6.0, *[6.0] * 3, *[5.0, 4.0, 3.0, 2.0, 1.0]])
    run.join("a", "b")
    for _ in range(6):
        assert run.state.next_version_at <= run.now  # the first training waits for nothing
        run.after(task_s)
        run.answer(1, 2)
    assert run.state.has_converged(3)
    run.after(3600)
    assert set(run.state.tasks) == {1, 2}
    began, worked_s = run.now, 0.0
    for _ in range(5):  # now the error falls again
        run.after(task_s)
        worked_s += task_s
        run.answer(1, 2)
        run.after(run.state.next_version_at - run.now)
        assert set(run.state.tasks) == {1, 2}
    assert worked_s / (run.now - began) == pytest.approx(share)


def test_a_restarted_server_keeps_the_pace_of_a_federation_that_has_settled() -> None:
    assert Run(saved(converged()), max_rounds=None).state.settled


def test_a_finite_run_is_as_fast_as_its_clients() -> None:
    run = serving(max_rounds=1000, patience=0, training_share=0.1)
    run.join("a", "b")
    run.state = replace(run.state, settled=True)
    run.after(3)
    assert Sent("train", (1, 2)) in run.answer(1, 2)


def test_a_known_client_that_reconnects_does_not_wake_a_converged_federation() -> None:
    run = converged()
    run.leave(2)
    assert decisions(run.join("b")) == []


def test_after_a_restart_known_clients_are_still_known() -> None:
    again = Run(saved(converged()), max_rounds=None, patience=2)
    result = decisions([*again.join("a"), *again.join("b")])
    assert result == [Sent("train", (1, 2))]
    again.errors = iter([1.0])
    again.answer(1, 2)
    assert again.state.has_converged(2)


def test_an_idle_client_is_asked_again_and_its_drift_begins_a_round_at_once() -> None:
    run = converged()
    assert of_kind(Asked, run.after(REFRESH_S)) == [Asked(1), Asked(2)]
    assert decisions(run.describe(1, "a", "instance of a", FEATURES)) == []
    assert decisions(run.describe(2, "b", "instance of b", FEATURES, drifted=True)) == [Sent("train", (1, 2))]
    assert Sent("train", (1, 2)) in run.answer(1, 2) + run.after(PACE_S)


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_waiting_for_clients_has_no_end(mode: str) -> None:
    run = serving(mode=mode, wait_s=10)
    run.join("a")
    for _ in range(100):
        run.after(1000)
    assert run.state.stopped is None
    assert "1 of 2 clients ready" in run.waiting()
    assert Sent("train", (1, 2)) in run.join("b")


def test_a_round_that_never_gets_its_quorum_is_given_up_and_another_follows() -> None:
    run = serving(quorum=1.0, deadline_s=20, wait_s=50)
    run.join("a", "b")
    run.answer(1)
    result = run.after(60)
    assert Abandoned(1, {"b": "no reply in 50 s"}) in result
    assert run.state.stopped is None
    number = run.requests[2]
    assert Asked(2) in result
    run.do(Described(2, number, description("b", "instance of b", FEATURES)))
    assert Sent("train", (1, 2)) in run.after(5)
    assert Aggregating((1, 2), {}) in run.answer(1, 2)


def test_an_asynchronous_server_pauses_and_wakes_too() -> None:
    run = serving(mode="asynchronous", buffer=1, quorum=0.5)
    run.join("a", "b")
    for _ in range(50):
        for node in (1, 2):
            if node in run.state.tasks:
                run.answer_newest(node)
    assert run.state.has_converged(2)
    assert decisions(run.after(PACE_S / 2)) == []
    run.join("c")
    run.after(1)
    assert run.state.tasks[3].version == run.state.version


def test_a_finite_run_still_ends_when_it_has_converged() -> None:
    run = converged(max_rounds=1000)
    assert run.state.ending == "converged: no improvement in 2 rounds"


def test_a_server_continues_where_a_finite_run_has_ended() -> None:
    ended = converged(max_rounds=1000)
    progress = {"best_error": 1.0, "rounds_without_improvement": ended.state.rounds_without_improvement}
    run = Run(resumed(State(), ended.state.version, FEATURES, progress), max_rounds=None, patience=2)
    assert Sent("train", (1, 2)) in run.join("a", "b")
