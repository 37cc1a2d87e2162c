"""Clients that still gather events: they are shown, get no tasks, and get the newest version all the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from server.coordination.actions import RequestDescription, SendTasks
from server.coordination.clients import MAX_LEARNING_S, MIN_LEARNING_S, REFRESH_S
from server.coordination.coordinator import step
from server.coordination.events import Described, NodesConnected, Tick
from server.coordination.state import client_name
from tests.server.coordination.test_coordinator import FEATURES, Asked, Run, Sent, decisions
from tests.server.descriptions import description

WANTED = 500


def learn(run: Run, name: str, rows: int, instance: str | None = None, node: int | None = None) -> list[Any]:
    """Let a client connect, if it has not, and describe itself as one that has so many events."""
    node = node or ord(name) - ord("a") + 1
    result = run.do(NodesConnected(frozenset({*run.state.clients, node})))
    described = description(name, instance or f"instance of {name}", FEATURES, rows=rows, wanted=WANTED)
    return result + run.do(Described(node, run.requests.get(node, 0), described))


def requests(run: Run) -> list[RequestDescription]:
    """Return the description requests that are due now."""
    run.state, actions = step(run.state, Tick(), run.now, run.rules)
    result = [action for action in actions if isinstance(action, RequestDescription)]
    run.requests |= {action.node: action.number for action in result}
    orders = [order for action in actions if isinstance(action, SendTasks) for order in action.orders]
    run.sent |= {(order.node, run.state.version + 1): order.number for order in orders}
    return result


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_client_that_learns_is_neither_counted_nor_given_tasks(mode: str) -> None:
    run = Run(mode=mode, max_rounds=None)
    run.join("a")
    assert decisions(learn(run, "b", 499)) == []
    assert run.state.clients[2].status == "learning"
    assert decisions(run.after(5)) == []
    assert Sent("train", (1, 2)) in learn(run, "b", 500)


def test_a_client_without_any_event_connects_and_learns() -> None:
    run = Run(max_rounds=None)
    learn(run, "a", 0)
    assert run.state.clients[1].status == "learning"
    assert "a learning 0 of 500 events; waiting for 1 more client to connect" in run.waiting()


def test_the_wait_says_who_learns_how_long_and_who_is_missing() -> None:
    run = Run(max_rounds=None)
    run.join("a")
    learn(run, "b", 100)
    run.now += 100
    learn(run, "b", 200)
    assert run.waiting() == (
        "1 of 2 clients ready after 100 s; b learning 200 of 500 events, about 5 minutes"
    )


def test_a_single_client_is_asked_to_wait_for_another() -> None:
    run = Run(max_rounds=None)
    run.join("a")
    assert run.waiting() == "1 of 2 clients ready after 0 s; waiting for 1 more client to connect"


def test_a_client_that_learns_describes_itself_again_after_half_of_the_time_that_it_needs() -> None:
    run = Run(max_rounds=None)
    learn(run, "a", 0)
    run.now += MIN_LEARNING_S
    assert [request.node for request in requests(run)] == [1]
    run.now += 9
    learn(run, "a", 400)  # 40 a second: 2.5 s are left
    run.now += 1.2
    assert requests(run) == []
    run.now += 0.1
    assert [request.node for request in requests(run)] == [1]


def test_a_client_that_gains_nothing_is_asked_less_and_less_often() -> None:
    run = Run(max_rounds=None)
    learn(run, "a", 0)
    asked = []
    for _ in range(600):
        run.now += 1
        if requests(run):
            asked.append(run.now)
            learn(run, "a", 0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[0] <= 2 * MIN_LEARNING_S
    assert gaps[-1] == MAX_LEARNING_S
    assert gaps == sorted(gaps)


def serving_two() -> Run:
    """Return a run of the clients `a` and `b` that has made version 1."""
    run = Run(max_rounds=None, interval_s=10)
    run.join("a", "b")
    run.answer(1, 2)
    assert run.state.version == 1
    return run


def test_a_client_that_learns_gets_the_newest_version_at_once_and_each_later_one() -> None:
    run = serving_two()
    learn(run, "c", 10)
    (first,) = requests(run)
    assert (first.node, first.deliver) == (3, True)
    learn(run, "c", 20)
    run.now += MAX_LEARNING_S
    again = {request.node: request.deliver for request in requests(run)}
    assert again[3] is False  # it has this version
    run.answer(1, 2)
    assert run.state.version == 2
    learn(run, "c", 30)
    run.now += MAX_LEARNING_S
    later = {request.node: request.deliver for request in requests(run)}
    assert later[3] is True


def test_before_the_first_trained_version_nothing_is_delivered() -> None:
    run = Run(max_rounds=None)
    run.join("a", "b")
    learn(run, "c", 10)
    run.now += MAX_LEARNING_S
    assert [request.deliver for request in requests(run) if request.node == 3] == [False]


def test_a_ready_client_that_waits_for_others_gets_the_newest_version() -> None:
    run = serving_two()
    run.leave(1, 2)
    run.now += 100
    run.join("c")
    run.now += REFRESH_S
    assert [(request.node, request.deliver) for request in requests(run)] == [(3, True)]


def test_a_client_that_reconnects_while_it_learns_replaces_itself_and_a_stranger_does_not() -> None:
    run = Run(max_rounds=None)
    learn(run, "a", 10)
    refused = learn(run, "a", 10, instance="another", node=7)
    assert Asked(7, "the name 'a' is in use by another connected client") in refused
    learn(run, "a", 20, node=8)
    assert [client_name(run.state, node) for node in run.state.clients] == ["a", "a"]
    assert {n: c.status for n, c in run.state.clients.items()} == {7: "refused", 8: "learning"}


def test_the_features_of_a_client_that_learns_are_checked() -> None:
    run = serving_two()
    described = description("c", "i", ("other",), rows=1, wanted=WANTED)
    run.do(NodesConnected(frozenset({1, 2, 3})))
    run.do(Described(3, run.requests[3], described))
    assert run.state.clients[3].status == "refused"


def test_version_0_is_made_of_ready_clients_only() -> None:
    run = Run(max_rounds=None)
    learn(run, "a", 10)
    run.join("b", "c")
    assert run.published[0].clients == (2, 3)  # type: ignore[union-attr]
