"""The coordinator in asynchronous mode."""

from __future__ import annotations

from typing import Any

import pytest

from server.coordination.actions import Aggregate, DropUpdate, EvaluationDone, Stop
from server.coordination.clients import REPLY_TIMEOUT_S
from server.coordination.coordinator import FAILURE_PAUSE_S, MAX_GONE, step
from server.coordination.events import Aggregated, AggregationFailed, NodesConnected, ReplyAdmitted, Tick
from server.coordination.schedule import MIN_TIMEOUT_S, OVERDUE_CHECK_S, discount
from tests.server.coordination.test_coordinator import (
    FEATURES,
    WAIT_S,
    Aggregating,
    Asked,
    Run,
    Sent,
    of_kind,
    only,
    saved,
)

SECONDS_EACH = 2.0


def streaming(names: str, **rules: Any) -> Run:
    """Return an asynchronous run in which each of these clients has a task."""
    run = Run(mode="asynchronous", **{"min_clients": len(names), "buffer": 2, "quorum": 0.01, **rules})
    run.join(*names)
    return run


def done(run: Run, *nodes: int, **how: Any) -> list[Any]:
    """Let clients answer their newest tasks, one after another."""
    result = []
    for node in nodes:
        run.now += SECONDS_EACH
        result += run.do(answered(run, node, **how))
    return result


def answered(run: Run, node: int, drifted: bool = False) -> Any:
    return ReplyAdmitted(node, run.state.tasks[node].number, drifted)


def test_a_client_that_has_answered_gets_the_next_task_at_once() -> None:
    run = streaming("abc")
    assert done(run, 2) == [Sent("train", (2,))]
    assert set(run.state.tasks) == {1, 2, 3}


def test_a_full_buffer_is_aggregated_while_others_still_work() -> None:
    run = streaming("abc")
    done(run, 2)
    assert done(run, 1) == [Aggregating((1, 2), {}), Sent("train", (1,))]
    assert run.state.version == 1
    assert run.state.tasks[3].version == 0


def test_an_update_of_an_older_version_counts_less() -> None:
    run = streaming("abc")
    done(run, 1, 2, 1, 2)
    assert run.state.version == 2
    assert only(Aggregating, done(run, 1, 3)).staleness == (2, 1)
    assert [round(share.discount, 3) for share in run.aggregations[-1].shares] == [0.577, 0.707]


@pytest.mark.parametrize(
    ("staleness", "discounts"),
    [("constant", [1, 1, 1, 1]), ("polynomial", [1, 0.707, 0.378, 0.302]), ("hinge", [1, 1, 0.5, 0.25])],
)
def test_the_discount_is_a_choice(staleness: str, discounts: list[float]) -> None:
    run = Run(staleness=staleness)
    assert [round(discount(s, run.rules), 3) for s in (0, 1, 6, 10)] == discounts


def test_an_update_past_the_limit_is_dropped_and_its_client_gets_the_newest_version() -> None:
    run = streaming("abc", buffer=1, staleness_limit=1)
    done(run, 1, 2)
    actions = done(run, 3)
    assert only(DropUpdate, actions).reason == "it is 2 versions behind"
    assert only(Sent, actions).nodes == (3,)
    assert run.state.tasks[3].version == 2


def test_a_repeated_task_has_the_number_of_repeats() -> None:
    run = streaming("abc", buffer=3)
    done(run, 1, 1)
    assert [order.repeats for order in run.orders if order.node == 1] == [0, 1, 2]


def test_the_first_version_is_made_of_a_quorum() -> None:
    run = Run(mode="asynchronous", min_clients=4, buffer=1, quorum=0.5)
    run.join(*"abcd")
    assert done(run, 1) == []  # one client alone must not make it
    assert only(Aggregating, done(run, 3)).nodes == (1, 3)
    assert only(Aggregating, done(run, 3)).nodes == (3,)


def test_the_first_version_does_not_wait_for_clients_that_are_gone() -> None:
    run = Run(mode="asynchronous", min_clients=4, buffer=1, quorum=1.0)
    run.join(*"abcd")
    done(run, 1)
    assert only(Aggregating, run.leave(2, 3, 4)).nodes == (1,)


def test_training_begins_with_enough_clients_and_continues_with_any() -> None:
    run = Run(mode="asynchronous", min_clients=3, buffer=1, quorum=0.01)
    assert not of_kind(Sent, run.join("a", "b"))
    assert only(Sent, run.join("c")).nodes == (1, 2, 3)
    done(run, 1)
    run.leave(2, 3)
    assert only(Aggregating, done(run, 1)).nodes == (1,)


def test_a_client_that_joins_is_put_to_work_at_once() -> None:
    run = streaming("ab")
    assert only(Sent, run.join("c")).nodes == (3,)


def test_no_more_clients_work_than_in_flight_allows() -> None:
    run = streaming("abcd", in_flight=2)
    assert set(run.state.tasks) == {1, 2}
    # The client that has waited longest goes first.
    assert [only(Sent, done(run, node)).nodes for node in (1, 2, 3, 4)] == [(3,), (4,), (1,), (2,)]


def test_a_client_that_drifted_goes_first() -> None:
    run = streaming("abcd", in_flight=1, buffer=3)
    done(run, 1, drifted=True)
    assert list(run.state.tasks) == [1]
    run.leave(4)
    run.do(NodesConnected(frozenset({1, 2, 3, 4})))
    run.describe(4, "d", "instance of d", FEATURES, drifted=True)
    assert [only(Sent, done(run, node)).nodes for node in (1, 4, 2)] == [(4,), (2,), (3,)]


def test_an_overdue_client_is_no_longer_awaited_and_is_asked_for_its_description() -> None:
    run = streaming("abc", deadline_s=500)
    done(run, *[1] * 20)
    assert set(run.state.tasks) == {1, 2, 3}
    assert not of_kind(Asked, run.after(MIN_TIMEOUT_S - 0.1))
    assert run.after(0.2) == [Asked(1)]
    assert "late with an earlier task: a" in run.waiting()
    # Clients with unknown durations have until the deadline.
    assert run.state.tasks[2].awaited
    assert not of_kind(Asked, run.after(OVERDUE_CHECK_S - 1))
    assert Asked(1) in run.after(1)


def test_a_late_update_is_used_and_its_client_continues() -> None:
    run = streaming("ab", deadline_s=10)
    run.after(11)
    assert only(Sent, done(run, 1)).nodes == (1,)
    assert [held.node for held in run.state.buffer] == [1]


def test_a_client_that_describes_itself_has_lost_its_task_and_gets_another() -> None:
    run = streaming("ab", deadline_s=10)
    lost = run.state.tasks[1].number
    run.after(11)
    actions = run.describe(1, "a", "instance of a", FEATURES)
    assert only(Sent, actions).nodes == (1,)
    assert run.state.tasks[1].number > lost
    assert run.answer(1, number=None) is not None
    before = run.state
    assert run.fail(1, "late", 99) == []
    assert run.state.tasks == before.tasks


def test_the_reply_to_an_earlier_request_does_not_affect_the_task() -> None:
    run = streaming("ab")
    run.requests[1] = 1
    assert run.describe(1, "a", "instance of a", FEATURES) == []
    assert run.state.tasks[1].awaited


def test_the_update_of_a_client_that_left_is_used() -> None:
    run = streaming("abc")
    gone = answered(run, 3)
    run.leave(3)
    done(run, 1)
    run.now += 1
    assert only(Aggregating, run.do(gone)).nodes == (1, 3)
    assert run.do(gone) == []


def test_a_client_that_reconnects_gets_the_newest_version() -> None:
    run = streaming("abc", buffer=1)
    run.leave(3)
    done(run, 1, 2)
    run.do(NodesConnected(frozenset({1, 2, 3})))
    assert only(Sent, run.describe(3, "c", "instance of c", FEATURES)).nodes == (3,)
    assert run.state.tasks[3].version == 2


def test_a_node_that_reconnects_gets_no_task_before_it_has_described_itself() -> None:
    run = streaming("abc", buffer=1)
    old = answered(run, 3)
    run.leave(3)
    assert not of_kind(Sent, run.do(NodesConnected(frozenset({1, 2, 3}))))
    assert only(Aggregating, run.do(old)).nodes == (3,)
    assert 3 not in run.state.tasks


def test_a_client_whose_task_failed_rests() -> None:
    run = streaming("ab")
    assert run.fail(1, "out of memory") == []
    assert "resting after a failure: a" in run.waiting()
    assert not of_kind(Sent, run.after(FAILURE_PAUSE_S - 0.1))
    assert only(Sent, run.after(0.2)).nodes == (1,)
    done(run, 1)
    assert only(Aggregating, done(run, 2)).failures == {"a": "out of memory"}


def test_a_failed_aggregation_discards_the_updates_and_the_run_continues() -> None:
    run = streaming("ab", buffer=1)
    run.state, _ = step(run.state, answered(run, 1), run.now, run.rules)
    assert run.state.aggregating
    run.do(AggregationFailed("not finite"))
    assert run.state.version == 0
    assert run.state.buffer == ()
    assert only(Sent, run.after(1.1)).nodes == (1,)


def test_a_full_buffer_is_aggregated_once() -> None:
    run = streaming("ab", buffer=1)
    run.state, actions = step(run.state, answered(run, 1), run.now, run.rules)
    assert of_kind(Aggregate, actions)
    assert step(run.state, Tick(), run.now, run.rules)[1] == []


def test_without_answers_the_run_ends_and_names_the_clients_that_worked() -> None:
    run = streaming("ab", deadline_s=10000)
    assert not of_kind(Stop, run.after(WAIT_S - 1))
    assert only(Stop, run.after(1)).reason == (
        "gave up waiting: version 1: 0 of 2 updates received after 600 s; working: a, b"
    )


def test_without_clients_the_run_waits_and_then_ends() -> None:
    run = streaming("ab")
    run.leave(1, 2)
    assert not of_kind(Stop, run.after(WAIT_S - 1))
    assert "0 of 2 clients ready" in only(Stop, run.after(1)).reason


def test_the_end_waits_for_busy_clients_but_uses_no_more_updates() -> None:
    run = streaming("abc", buffer=1, max_rounds=1)
    assert not of_kind(Sent, done(run, 1))
    actions = done(run, 2)
    assert only(DropUpdate, actions).reason == "it arrived after the last aggregation"
    assert only(Sent, done(run, 3)) == Sent("evaluate", (1, 2, 3))
    actions = done(run, 1, 2, 3)
    assert (only(EvaluationDone, actions).nodes, only(Stop, actions).reason) == ((1, 2, 3), "1 rounds done")


def test_patience_counts_updates_not_versions() -> None:
    run = streaming("abcd", buffer=1, patience=2)
    run.errors = iter([1.0] * 100)
    for _ in range(2):
        done(run, 1, 2, 3, 4)
    assert run.state.rounds_without_improvement == 1
    assert not run.state.ending
    done(run, 1, 2, 3, 4)
    assert run.state.ending == "converged: no improvement in 2 rounds"


def test_drift_resets_patience() -> None:
    run = streaming("abcd", buffer=1, patience=5)
    run.errors = iter([1.0] * 100)
    done(run, 1, 2, 3, 4, 1, 2, 3, 4)
    assert run.state.rounds_without_improvement == 1
    run.do(Aggregated(9.0, 1, drifted=True))
    assert (run.state.best_error, run.state.rounds_without_improvement) == (9.0, 0)


def test_a_restart_remembers_how_long_each_client_takes() -> None:
    run = streaming("ab", buffer=1)
    done(run, *[1] * 20)
    again = Run(saved(run), mode="asynchronous", buffer=1)
    again.join("a")
    assert again.state.tasks[1].due_at == pytest.approx(again.now + MIN_TIMEOUT_S)
    assert again.state.tasks[1].version == 20


def test_memory_is_bounded_while_nodes_connect_and_disconnect() -> None:
    run = streaming("ab")
    for i in range(MAX_GONE + 500):
        node = 100 + i
        run.do(NodesConnected(frozenset({1, 2, node})))
        run.describe(node, "crasher", "i", FEATURES)
        run.do(NodesConnected(frozenset({1, 2})))
    assert len(run.state.tasks) <= MAX_GONE + 2
    assert len(run.state.failures) <= MAX_GONE
    assert len(run.state.clients) == 2
    assert set(run.state.durations) <= {"a", "b", "crasher"}


def test_a_description_request_without_a_reply_is_repeated() -> None:
    run = streaming("ab")
    run.do(NodesConnected(frozenset({1, 2, 9})))
    assert run.after(REPLY_TIMEOUT_S) == [Asked(9)]


def test_during_the_interval_there_are_no_tasks_and_no_aggregation() -> None:
    run = streaming("abc", buffer=1, interval_s=30)
    run.do(answered(run, 1))
    assert run.state.version == 1
    assert run.after(1) == []
    assert run.do(answered(run, 2)) == []
    assert run.state.version == 1
    assert [type(action) for action in run.after(29)] == [Aggregating]
    assert only(Sent, run.after(30)) == Sent("train", (1, 2))
    assert run.state.version == 2
