from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from common.settings import FederationSettings
from server.coordination.actions import (
    AbandonRound,
    Action,
    Aggregate,
    CreateFirstVersion,
    DropUpdate,
    EvaluationDone,
    Publish,
    RequestDescription,
    SendTasks,
    Stop,
    TaskOrder,
)
from server.coordination.clients import MAX_REQUESTS, OTHER_FEATURES, REPLY_TIMEOUT_S, RETRY_S
from server.coordination.coordinator import step
from server.coordination.events import (
    Aggregated,
    AggregationFailed,
    Described,
    DescriptionFailed,
    Event,
    NodesConnected,
    ReplyAdmitted,
    TaskFailed,
    Tick,
)
from server.coordination.schedule import ROUND_PAUSE_S
from server.coordination.state import Failure, State, progress_of, resumed
from server.coordination.waiting import waiting_for
from tests.server.descriptions import description

FEATURES = ("cpu", "memory")
DEADLINE_S, WAIT_S = 60.0, 600.0


@dataclass(frozen=True)
class Asked:
    node: int
    refused: str | None = None


@dataclass(frozen=True)
class Sent:
    kind: str
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Aggregating:
    nodes: tuple[int, ...]
    failures: Mapping[str, str]
    staleness: tuple[int, ...] = ()
    """Empty if all updates are of the newest version."""


@dataclass(frozen=True)
class Abandoned:
    number: int
    failures: Mapping[str, str]


def reasons(failures: Iterable[Failure]) -> dict[str, str]:
    return {failure.client: failure.reason for failure in failures}


def brief(action: Action) -> Any:
    """Return the action without the numbers of its messages."""
    match action:
        case RequestDescription(node, _, refused):
            return Asked(node, refused)
        case SendTasks(kind, orders):
            return Sent(kind, tuple(order.node for order in orders))
        case Aggregate(shares, failures):
            staleness = tuple(share.staleness for share in shares)
            nodes = tuple(sorted(share.node for share in shares))
            return Aggregating(nodes, reasons(failures), staleness if any(staleness) else ())
        case AbandonRound(number, failures):
            return Abandoned(number, reasons(failures))
        case _:
            return action


class Run:
    """A coordinator, a clock that only the test moves, and the aggregation that the strategy would do."""

    def __init__(self, state: State | None = None, **rules: Any) -> None:
        self.rules = FederationSettings(
            **{"deadline_s": DEADLINE_S, "wait_s": WAIT_S, "max_rounds": 200, **rules}
        )
        self.state = state or State()
        self.now = 100.0
        self.errors = iter(0.9**i for i in range(1000))
        self.opened: list[Any] = []
        self.sent: dict[tuple[int, int], int] = {}
        """By node and round, the number of the task."""
        self.requests: dict[int, int] = {}
        self.aggregations: list[Aggregate] = []
        self.published: list[CreateFirstVersion | Publish] = []
        self.orders: list[TaskOrder] = []

    def do(self, *events: Event) -> list[Any]:
        """Return the actions for the events, without those that write versions (see `published`)."""
        result: list[Any] = []
        for event in events:
            self.state, actions = step(self.state, event, self.now, self.rules)
            for action in actions:
                match action:
                    case SendTasks(_, orders):
                        self.sent |= {(o.node, self.state.version + 1): o.number for o in orders}
                        self.orders += orders
                    case RequestDescription(node, number):
                        self.requests[node] = number
                    case Aggregate():
                        self.aggregations.append(action)
                    case CreateFirstVersion() | Publish():
                        self.published.append(action)
            result += [brief(a) for a in actions if not isinstance(a, CreateFirstVersion | Publish)]
            if any(isinstance(action, Aggregate) for action in actions):
                result += self.do(Aggregated(next(self.errors), len(self.aggregations[-1].shares)))
        return result

    def join(self, *names: str, features: tuple[str, ...] = FEATURES) -> list[Any]:
        """Let clients connect and describe themselves; client `a` is node 1, `b` node 2, and so on."""
        result: list[Any] = []
        for name in names:
            node = ord(name) - ord("a") + 1
            result += self.do(NodesConnected(frozenset({*self.state.clients, node})))
            result += self.describe(node, name, f"instance of {name}", features)
        return result

    def describe(
        self, node: int, name: str, instance: str, features: tuple[str, ...], drifted: bool = False
    ) -> list[Any]:
        """Let a client answer its newest description request."""
        number = self.requests.get(node, 0)
        return self.do(Described(node, number, description(name, instance, features, drifted)))

    def leave(self, *nodes: int) -> list[Any]:
        return self.do(NodesConnected(frozenset(self.state.clients) - set(nodes)))

    def answer(self, *nodes: int, number: int | None = None, drifted: bool = False) -> list[Any]:
        """Let clients answer the task of a round, by default the newest."""
        if number is None:
            number = self.state.version + 1
        return self.do(*(ReplyAdmitted(node, self.sent.get((node, number), 0), drifted) for node in nodes))

    def answer_newest(self, node: int) -> list[Any]:
        """Let a client answer the task that it has."""
        return self.do(ReplyAdmitted(node, self.state.tasks[node].number))

    def fail(self, node: int, reason: str, number: int | None = None) -> list[Any]:
        """Let a client fail in its current task, or in that of a round."""
        work = self.state.tasks.get(node)
        task = self.sent.get((node, number), 0) if number is not None else work.number if work else 0
        return self.do(TaskFailed(node, task, reason))

    def after(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self.do(Tick())

    def waiting(self) -> str:
        return waiting_for(self.state, self.now, self.rules)


def gathered(names: str, **rules: Any) -> Run:
    """Return a run whose first round is open, with these clients or a sample of them."""
    waiting = Run(min_clients=len(names) + 1)
    waiting.join(*names)
    run = Run(waiting.state, **rules)
    run.opened = run.after(0)
    return run


def only(kind: type[Any], actions: Iterable[Action]) -> Any:
    """Return the one action of this kind."""
    (result,) = [action for action in actions if isinstance(action, kind)]
    return result


def of_kind(kind: type[Any], actions: Iterable[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def decisions(actions: Iterable[Any]) -> list[Any]:
    """Return the actions without description requests."""
    return [action for action in actions if not isinstance(action, Asked)]


# A round opens.


def test_a_new_node_is_asked_for_its_description() -> None:
    run = Run()
    assert run.do(NodesConnected(frozenset({2, 1}))) == [Asked(1), Asked(2)]
    assert run.do(NodesConnected(frozenset({2, 1}))) == []


def test_a_request_without_a_reply_is_repeated() -> None:
    run = Run()
    run.do(NodesConnected(frozenset({1})))
    assert run.after(REPLY_TIMEOUT_S - 0.1) == []
    assert run.after(0.2) == [Asked(1)]
    assert run.after(REPLY_TIMEOUT_S - 0.1) == []
    assert run.after(0.2) == [Asked(1)]


def test_many_new_nodes_are_asked_a_limited_number_at_a_time() -> None:
    run = Run(min_clients=1000)
    nodes = frozenset(range(1, 3 * MAX_REQUESTS + 1))
    first = run.do(NodesConnected(nodes))
    assert first == [Asked(node) for node in range(1, MAX_REQUESTS + 1)]
    assert run.do(NodesConnected(nodes), Tick()) == []
    assert run.describe(5, "e", "i", FEATURES) == []
    assert run.after(0.1) == [Asked(MAX_REQUESTS + 1)]
    # Clients that never answer do not keep others from being asked.
    asked = {asked.node for asked in run.after(REPLY_TIMEOUT_S) + run.after(REPLY_TIMEOUT_S)}
    assert asked >= set(range(MAX_REQUESTS + 2, 3 * MAX_REQUESTS))


def test_the_description_of_a_node_that_has_left_is_ignored() -> None:
    run = Run(min_clients=1)
    assert run.describe(1, "a", "i", FEATURES) == []
    assert run.state.clients == {}


def test_no_round_opens_before_enough_clients_are_ready() -> None:
    run = Run(min_clients=3)
    assert not of_kind(Sent, run.join("a", "b"))
    assert not of_kind(Sent, run.after(50))
    assert run.waiting().startswith("2 of 3 clients ready after 50 s")
    assert only(Sent, run.join("c")) == Sent("train", (1, 2, 3))
    assert run.waiting() == "training round 1: 0 of 3 answered after 0 s; awaited: a, b, c"


def test_all_replies_close_a_round_at_once() -> None:
    run = Run()
    run.join("a", "b")
    assert run.answer(1) == []
    assert run.answer(2) == [Aggregating((1, 2), {}), Sent("train", (1, 2))]
    assert run.state.version == 1


def test_the_deadline_closes_a_round_that_has_its_quorum() -> None:
    run = Run(min_clients=4, quorum=0.5)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert run.after(DEADLINE_S - 1) == []
    aggregation = only(Aggregating, run.after(1))
    assert aggregation.nodes == (1, 3)
    assert aggregation.failures == {"b": "no reply before the deadline", "d": "no reply before the deadline"}


def test_without_its_quorum_a_round_waits_past_the_deadline() -> None:
    run = Run(min_clients=4, quorum=0.75)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert decisions(run.after(DEADLINE_S + 100)) == []
    assert only(Aggregating, run.answer(4)).nodes == (1, 3, 4)


def test_a_round_that_never_gets_its_quorum_ends_the_run_and_names_who_was_awaited() -> None:
    run = Run(min_clients=4, quorum=0.75)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert decisions(run.after(WAIT_S - 1)) == []
    stop = only(Stop, run.after(1))
    assert stop.reason == "gave up waiting: training round 1: 2 of 4 answered after 600 s; awaited: b, d"
    assert run.state.stopped == stop.reason
    assert run.waiting() == ""


def test_a_quorum_is_not_a_reason_to_give_up_even_if_the_deadline_is_longer_than_the_wait() -> None:
    run = Run(min_clients=2, quorum=0.5, deadline_s=100, wait_s=10)
    run.join("a", "b")
    run.answer(1)
    assert not of_kind(Stop, [*run.after(50), *run.after(49)])
    assert only(Aggregating, run.after(1)).nodes == (1,)


@pytest.mark.parametrize(
    ("quorum", "sampled", "needed"),
    [(0.5, 3, 2), (0.5, 4, 2), (0.01, 4, 1), (1.0, 3, 3), (0.75, 4, 3), (0.55, 20, 11), (0.28, 25, 7)],
)
def test_the_quorum_is_a_share_of_the_sampled(quorum: float, sampled: int, needed: int) -> None:
    run = Run(min_clients=sampled, quorum=quorum)
    run.join(*(chr(ord("a") + i) for i in range(sampled)))
    run.answer(*range(1, needed))
    if needed < sampled:
        assert decisions(run.after(DEADLINE_S)) == []
    assert len(only(Aggregating, run.answer(needed)).nodes) == needed


def test_clients_that_never_come_end_the_run_with_a_reason() -> None:
    run = Run(min_clients=3)
    run.join("a", "b")
    assert decisions(run.after(WAIT_S - 1)) == []
    assert only(Stop, run.after(1)).reason == (
        "gave up waiting: 2 of 3 clients ready after 600 s; waiting for 1 more client to connect"
    )


def test_each_wait_is_measured_from_its_own_start() -> None:
    run = Run()
    run.after(WAIT_S - 10)
    run.join("a", "b")
    run.now += DEADLINE_S
    run.answer(1, 2)
    assert run.leave(1, 2) == [Abandoned(2, {"a": "disconnected", "b": "disconnected"})]
    assert not of_kind(Stop, [*run.after(2), *run.after(WAIT_S - 10)])
    assert of_kind(Stop, run.after(20))


# Clients that fail or leave.


def test_a_client_that_leaves_in_mid_round_is_not_awaited() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1, 2)
    aggregation = only(Aggregating, run.leave(3))
    assert aggregation.nodes == (1, 2)
    assert aggregation.failures == {"c": "disconnected"}


def test_the_answer_of_a_client_that_then_left_still_counts() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1)
    assert run.leave(1) == []
    assert only(Aggregating, run.answer(2, 3)).nodes == (1, 2, 3)


def test_a_failure_is_not_awaited_and_is_named() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1)
    run.fail(2, "out of memory")
    aggregation = only(Aggregating, run.answer(3))
    assert (aggregation.nodes, aggregation.failures) == ((1, 3), {"b": "out of memory"})


def test_when_all_fail_the_round_is_abandoned_and_repeated_after_a_pause() -> None:
    run = Run()
    run.join("a", "b")
    assert [*run.fail(1, "NaN"), *run.fail(2, "OOM")] == [Abandoned(1, {"a": "NaN", "b": "OOM"})]
    assert run.after(ROUND_PAUSE_S / 2) == []
    assert run.after(ROUND_PAUSE_S / 2) == [Sent("train", (1, 2))]
    assert run.state.version == 0


def test_with_an_interval_the_next_round_waits_for_it() -> None:
    run = Run(interval_s=30)
    run.join("a", "b")
    assert run.answer(1, 2) == [Aggregating((1, 2), {})]
    assert run.after(29.9) == []
    assert run.after(0.1) == [Sent("train", (1, 2))]


def test_an_interval_longer_than_wait_s_does_not_end_the_run() -> None:
    run = Run(interval_s=10 * WAIT_S)
    run.join("a", "b")
    run.answer(1, 2)
    assert decisions(run.after(10 * WAIT_S)) == [Sent("train", (1, 2))]


def test_the_final_evaluation_does_not_wait_for_the_interval() -> None:
    run = Run(interval_s=30, max_rounds=1)
    run.join("a", "b")
    assert run.answer(1, 2) == [Aggregating((1, 2), {}), Sent("evaluate", (1, 2))]


def test_answers_below_the_quorum_are_abandoned_with_the_round() -> None:
    run = Run(min_clients=3, quorum=0.5)
    run.join("a", "b", "c")
    run.answer(1)
    actions = [*run.fail(2, "x"), *run.fail(3, "y")]
    assert actions[0] == Abandoned(1, {"b": "x", "c": "y"})
    assert only(DropUpdate, actions).node == 1
    assert only(Sent, run.after(ROUND_PAUSE_S)).nodes == (1, 2, 3)


def test_a_round_that_all_clients_left_is_abandoned_and_waits_for_new_ones() -> None:
    run = Run()
    run.join("a", "b")
    assert run.leave(1, 2) == [Abandoned(1, {"a": "disconnected", "b": "disconnected"})]
    assert not of_kind(Sent, run.after(10))
    assert run.waiting().startswith("0 of 2 clients ready")
    assert only(Sent, run.join("c", "d")).nodes == (3, 4)


def test_a_late_reply_is_used_in_the_next_round_at_a_discount_and_counts_for_no_quorum() -> None:
    run = gathered("abc", quorum=0.5)
    run.answer(1, 2)
    assert only(Sent, run.after(DEADLINE_S)) == Sent("train", (1, 2))  # c is still busy with round 1
    assert run.answer(3, number=1) == []
    assert run.state.round is not None
    assert run.state.round.awaited == {1, 2}
    assert run.state.round.answered == set()
    actions = run.answer(1, 2, number=2)
    assert only(Aggregating, actions) == Aggregating((1, 2, 3), {}, (1, 0, 0))
    assert [round(share.discount, 3) for share in run.aggregations[-1].shares] == [0.707, 1.0, 1.0]
    assert only(Sent, actions) == Sent("train", (1, 2, 3))


def test_a_late_reply_that_is_too_stale_is_dropped_and_the_client_continues() -> None:
    run = gathered("abc", quorum=0.5, staleness_limit=1)
    run.answer(1, 2)
    run.after(DEADLINE_S)
    run.answer(1, 2)
    dropped = only(DropUpdate, run.answer(3, number=1))
    assert (dropped.node, dropped.reason) == (3, "it is 2 versions behind")
    assert only(Sent, run.answer(1, 2)).nodes == (1, 2, 3)


def test_a_client_that_lost_its_task_does_not_hold_up_a_round_for_ever() -> None:
    run = gathered("ab", quorum=1.0)
    run.answer(1)
    assert Asked(2) in run.after(DEADLINE_S)
    assert only(Abandoned, run.describe(2, "b", "instance of b", FEATURES)).failures == {
        "b": "the task never arrived"
    }
    assert only(Sent, run.after(ROUND_PAUSE_S)).nodes == (1, 2)


def test_a_late_failure_frees_the_client_too() -> None:
    run = gathered("abc", quorum=0.5)
    run.answer(1, 2)
    run.after(DEADLINE_S)
    assert run.fail(3, "too late") == []
    assert only(Sent, run.answer(1, 2)).nodes == (1, 2, 3)


def test_an_answer_to_an_earlier_round_does_not_free_a_client_from_this_one() -> None:
    run = Run(min_clients=3, quorum=0.5)
    run.join("a", "b", "c")
    run.answer(1, 2, 3)
    run.answer(1, 2, number=2)
    run.answer(3, number=1)  # once more
    actions = run.after(DEADLINE_S)
    assert only(Aggregating, actions).nodes == (1, 2)
    assert not of_kind(Sent, [*actions, *run.after(1)])  # c still works on round 2


def test_a_client_that_describes_itself_again_still_owes_its_reply() -> None:
    run = gathered("abc", quorum=0.5)
    run.describe(3, "c", "instance of c", FEATURES)  # it was asked twice, and answers twice
    run.answer(1, 2)
    assert only(Sent, run.after(DEADLINE_S)).nodes == (1, 2)


def test_the_reason_to_wait_names_busy_clients() -> None:
    run = gathered("az", quorum=0.5)
    run.answer(1)
    assert not of_kind(Sent, run.after(DEADLINE_S))
    run.after(30)
    assert "2 of 2 clients ready" not in run.waiting()
    assert "z" in run.waiting()
    assert "z" in only(Stop, run.after(WAIT_S)).reason


def test_a_failed_description_does_not_affect_the_task() -> None:
    run = gathered("ab")
    assert run.do(DescriptionFailed(1, "the question came too late")) == []
    assert run.state.round is not None
    assert run.state.round.awaited == {1, 2}
    assert only(Aggregating, run.answer(1, 2)).nodes == (1, 2)


def test_a_late_failure_of_an_earlier_round_does_not_affect_this_one() -> None:
    run = gathered("ab")
    run.answer(1, 2)
    assert run.fail(1, "late", 1) == []
    assert only(Aggregating, run.answer(1, 2)).nodes == (1, 2)


def test_nothing_counts_twice() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    assert run.answer(1, 1, 1) == []
    assert run.fail(1, "changed its mind") == []
    assert only(Aggregating, run.answer(2)) == Aggregating((1, 2), {})


def test_answers_of_unknown_nodes_are_ignored() -> None:
    run = Run()
    run.join("a", "b")
    assert run.answer(9) == []
    assert run.fail(9, "?") == []
    assert only(Aggregating, run.answer(1, 2)).nodes == (1, 2)


# Names.


def test_of_two_clients_of_one_name_the_second_is_refused_until_the_first_left() -> None:
    run = Run(min_clients=2)
    run.join("a")
    run.do(NodesConnected(frozenset({1, 9})))
    taken = "the name 'a' is in use by another connected client"
    assert run.describe(9, "a", "another", FEATURES) == [Asked(9, refused=taken)]
    assert not of_kind(Sent, run.after(1))
    assert f"refused: a: {taken}" in run.waiting()

    assert run.after(RETRY_S) == [Asked(9)]
    assert run.describe(9, "a", "another", FEATURES) == []  # it knows already
    run.leave(1)
    assert run.after(RETRY_S) == [Asked(9)]
    run.describe(9, "a", "another", FEATURES)
    assert only(Sent, run.join("b")).nodes == (2, 9)
    assert "refused" not in run.waiting()


def test_a_client_has_no_other_name_than_its_key() -> None:
    run = Run()
    run.join("a")
    run.do(NodesConnected(frozenset({1, 9})))
    number = run.state.last_number
    (asked,) = run.do(Described(9, number, description("a", "another", FEATURES), owner="b"))
    assert asked == Asked(9, refused="it calls itself 'a', but its key is registered for 'b'")
    assert run.state.clients[1].status == "ready"
    assert run.state.clients[9].status == "refused"


def test_a_client_that_comes_back_as_another_node_replaces_itself() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    run.do(NodesConnected(frozenset({1, 2, 9})))
    run.describe(9, "a", "instance of a", FEATURES)
    assert set(run.state.clients) == {2, 9}
    aggregation = only(Aggregating, [*run.answer(2), *run.after(DEADLINE_S)])
    assert (aggregation.nodes, aggregation.failures) == ((2,), {"a": "reconnected as another node"})
    assert run.state.round is not None
    assert run.state.round.awaited == {2, 9}


def test_a_client_whose_question_failed_is_refused_with_the_reason_and_asked_again() -> None:
    run = Run()
    run.do(NodesConnected(frozenset({5})))
    run.do(DescriptionFailed(5, "not a flockwatch client"))
    assert "5: not a flockwatch client" in run.waiting()
    assert run.after(RETRY_S) == [Asked(5)]


# Features.


def test_the_features_of_the_majority_become_the_federations() -> None:
    run = Run(min_clients=3)
    run.join("a", features=("cpu", "disk"))
    run.join("b", features=FEATURES)
    actions = run.join("c", features=("memory", "cpu"))
    refusal = only(Asked, [action for action in actions if action != Asked(3)])
    assert refusal.node == 1
    for part in ("missing 'memory'", "extra 'disk'"):
        assert part in refusal.refused
        assert part in run.waiting()
    assert run.state.features is not None
    assert sorted(run.state.features) == sorted(FEATURES)
    assert only(Sent, run.join("d")).nodes == (2, 3, 4)


def test_reordered_features_fit() -> None:
    run = Run(min_clients=2)
    run.join("a", features=("memory", "cpu"))
    assert only(Sent, run.join("b", features=("cpu", "memory"))).nodes == (1, 2)


def test_as_many_clients_with_other_features_do_not_change_the_federations() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    refusals = [action for action in run.join("c", "d", features=("x",)) if action.refused]
    assert [refusal.node for refusal in refusals] == [3, 4]
    assert all("missing 'cpu', 'memory'; extra 'x'" in refusal.refused for refusal in refusals)
    assert run.state.features == FEATURES
    assert only(Sent, run.answer(1, 2)).nodes == (1, 2)


def describe_again(run: Run) -> list[Any]:
    """Let the clients that were refused and fit now describe themselves; return what follows in time."""
    run.after(0.0)
    for node, client in run.state.clients.items():
        if client.status == "asked" and client.description is not None:
            features = client.description.schema.features
            run.describe(node, client.name, f"instance of {client.name}", features)
    return run.after(RETRY_S)


@pytest.mark.parametrize("order", ["abcde", "cabde", "cdabe", "abecd", "cdeab"])
@pytest.mark.parametrize("min_clients", [1, 2, 3])
def test_the_features_of_most_clients_win_in_whichever_order_they_come(order: str, min_clients: int) -> None:
    run = Run(min_clients=min_clients)
    for name in order:
        run.join(name, features=("x",) if name in "ab" else FEATURES)
    assert run.state.features == FEATURES
    describe_again(run)
    assert {c.name: c.status for c in run.state.clients.values()} == {
        **dict.fromkeys("ab", "refused"), **dict.fromkeys("cde", "ready"),
    }  # fmt: skip
    assert run.state.version == run.state.first_version
    for round_ in (1, 2):
        run.answer(3, 4, 5)
        assert run.state.version == run.state.first_version + round_, order


def test_a_federation_begins_again_with_the_next_version_and_does_not_use_earlier_updates() -> None:
    run = Run(min_clients=1)
    run.join("a", features=("x",))
    run.answer(1)
    assert run.state.version == 1
    assert [action.node for action in of_kind(Asked, run.join("c")) if action.refused] == [3]
    actions = run.join("d")
    assert [a.node for a in of_kind(Asked, actions) if a.refused] == [1]
    assert not of_kind(Sent, actions)
    assert only(Sent, describe_again(run)) == Sent("train", (3, 4))
    created = run.published[-1]
    assert isinstance(created, CreateFirstVersion)
    assert (created.version, sorted(created.features), created.clients) == (2, sorted(FEATURES), (3, 4))
    late = [action for action in run.do(ReplyAdmitted(1, run.sent[1, 2])) if isinstance(action, DropUpdate)]
    assert [drop.reason for drop in late] == [OTHER_FEATURES]


def test_clients_that_are_away_count_if_they_have_trained() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    run.answer(1, 2)
    run.do(NodesConnected(frozenset()))
    run.join("c", "d", features=("x",))
    assert run.state.features == FEATURES
    run.join("e", features=("x",))
    assert run.state.features == ("x",)


def test_a_client_that_is_refused_for_another_reason_has_no_vote() -> None:
    run = Run(min_clients=1)
    run.join("a")
    run.join("c", features=("x",))
    run.do(NodesConnected(frozenset({*run.state.clients, 9})))
    run.describe(9, "a", "another instance of a", ("x",))
    assert run.state.features == FEATURES


def test_features_that_are_declared_are_not_voted_on() -> None:
    run = Run(State(features=("x",), declared=True), min_clients=1)
    assert not of_kind(Sent, run.join("a", "b"))
    assert only(Sent, run.join("c", features=("x",))).nodes == (3,)


def test_a_restarted_run_begins_again_if_other_features_are_declared() -> None:
    declared = State(features=("x",), declared=True)
    again = Run(resumed(declared, 5, FEATURES, {}), min_clients=1)
    assert (again.state.version, again.state.initialised) == (6, False)
    assert only(Sent, again.join("c", features=("x",))).nodes == (3,)
    assert resumed(declared, 5, ("x",), {}).initialised


def test_a_refused_client_gets_the_reason_once_and_is_admitted_when_it_fits() -> None:
    run = Run(State(features=FEATURES, declared=True), min_clients=1)
    refusals = [a for a in run.join("a", features=("cpu",)) if a.refused]
    assert len(refusals) == 1
    assert run.after(RETRY_S) == [Asked(1)]
    assert run.describe(1, "a", "instance of a", ("cpu",)) == []
    assert run.after(RETRY_S) == [Asked(1)]
    assert only(Sent, run.describe(1, "a", "instance of a", FEATURES)).nodes == (1,)


MANY = tuple(f"f{i}" for i in range(9))


def test_a_client_with_more_features_than_a_model_may_have_is_refused_and_the_others_go_on() -> None:
    run = Run(State(max_features=8), min_clients=2, max_model_mb=7)
    refusal = only(Asked, [a for a in run.join("a", features=MANY) if a.refused])
    assert refusal.node == 1
    assert refusal.refused == (
        "'a' has 9 features, but federation.max_model_mb (7 MB) allows a model of 8 at most"
    )
    assert refusal.refused in run.waiting()
    assert not of_kind(Sent, run.join("b", features=MANY[:8]))
    assert only(Sent, run.join("c", features=MANY[:8])) == Sent("train", (2, 3))
    assert run.state.features == MANY[:8]
    run.answer(2, 3)
    assert run.state.version == 1
    assert run.describe(1, "a", "instance of a", MANY) == [], "the reason is sent once"
    run.describe(1, "a", "instance of a", MANY[:8])
    assert run.state.clients[1].status == "ready"


def test_clients_with_too_many_features_cannot_restart_a_federation() -> None:
    run = Run(State(max_features=8), min_clients=1)
    run.join("a")
    run.answer(1)
    run.join("b", "c", "d", features=MANY)
    assert run.state.features == FEATURES
    assert {run.state.clients[node].status for node in (2, 3, 4)} == {"refused"}


def test_a_federation_whose_features_are_known_goes_on_under_a_lower_limit() -> None:
    run = Run(resumed(State(max_features=8), 5, MANY, {}), min_clients=1)
    assert only(Sent, run.join("a", features=MANY)).nodes == (1,)
    declared = Run(State(features=FEATURES, declared=True, max_features=8), min_clients=1)
    assert "extra 'f0'" in only(Asked, [a for a in declared.join("a", features=MANY) if a.refused]).refused


def test_a_tie_of_features_is_decided_regardless_of_order() -> None:
    adopted = set()
    for order in (("a", "b"), ("b", "a")):
        run = Run(min_clients=2)
        for name in order:
            run.join(name, features=("x",) if name == "a" else ("y",))
        adopted.add(run.state.features)
    assert len(adopted) == 1


# Sampling.


@pytest.mark.parametrize(
    ("fraction", "min_clients", "size"), [(1.0, 2, 10), (0.5, 2, 5), (0.3, 2, 3), (0.01, 4, 4), (0.5, 8, 8)]
)
def test_a_round_samples_its_fraction_but_at_least_the_minimum(
    fraction: float, min_clients: int, size: int
) -> None:
    sent = only(Sent, gathered("abcdefghij", fraction=fraction, min_clients=min_clients).opened)
    assert len(sent.nodes) == len(set(sent.nodes)) == size
    assert set(sent.nodes) <= set(range(1, 11))


def test_over_the_rounds_everybody_is_sampled() -> None:
    run, seen = gathered("abcdefghij", fraction=0.3), set()
    sent = only(Sent, run.opened)
    for _ in range(30):
        seen |= set(sent.nodes)
        sent = only(Sent, run.answer(*sent.nodes))
    assert seen == set(range(1, 11))


def test_the_same_state_samples_the_same_clients() -> None:
    first, second = (only(Sent, gathered("abcdefghij", fraction=0.3).opened) for _ in range(2))
    assert first == second


def test_a_sample_that_failed_is_not_drawn_for_ever() -> None:
    """Two broken clients among ten must not hold up the run because chance put them together once."""
    run = gathered("abcdefghij", fraction=0.2, min_clients=2)
    sent = only(Sent, run.opened)
    broken = set(sent.nodes)
    for _ in range(100):
        sound = [node for node in sent.nodes if node not in broken]
        actions = [*run.answer(*sound), *(a for n in broken & set(sent.nodes) for a in run.fail(n, "broken"))]
        if of_kind(Aggregating, actions):
            return
        sent = only(Sent, [*actions, *run.after(ROUND_PAUSE_S)])
    pytest.fail("the same two clients were sampled a hundred times")


# The end.


def finished(run: Run) -> list[Action]:
    """Let all clients answer until the run stops, and return the actions."""
    result: list[Action] = []
    for _ in range(1000):
        actions = run.after(0.1)
        if run.state.round is not None:
            actions += run.answer(*run.state.round.awaited)
        result += actions
        if run.state.stopped is not None:
            return result
    pytest.fail("the run does not end")


def test_after_the_last_round_the_final_version_is_evaluated_once() -> None:
    run = Run(max_rounds=2)
    actions = [*run.join("a", "b"), *finished(run)]
    assert [a for a in actions if not isinstance(a, Asked)] == [
        Sent("train", (1, 2)),
        Aggregating((1, 2), {}),
        Sent("train", (1, 2)),
        Aggregating((1, 2), {}),
        Sent("evaluate", (1, 2)),
        EvaluationDone((1, 2)),
        Stop("2 rounds done"),
    ]
    assert run.state.version == 2


def test_patience_ends_the_run_when_nothing_improves() -> None:
    run = Run(patience=3, max_rounds=50)
    run.errors = iter([1.0, 0.5, 0.5, 0.4999, 0.5, *[0.1] * 50])
    run.join("a", "b")
    actions = finished(run)
    assert len(of_kind(Aggregating, actions)) == 5
    assert only(EvaluationDone, actions).nodes == (1, 2)
    assert only(Stop, actions).reason == "converged: no improvement in 3 rounds"
    assert run.state.best_error == 0.5


def test_small_improvements_add_up() -> None:
    run = Run(patience=3, max_rounds=12, min_improvement=0.01)
    run.errors = iter([0.995**i for i in range(50)])
    run.join("a", "b")
    assert only(Stop, finished(run)).reason == "12 rounds done"


def test_without_patience_nothing_but_the_rounds_ends_the_run() -> None:
    run = Run(patience=0, max_rounds=9)
    run.errors = iter([1.0] * 50)
    run.join("a", "b")
    assert only(Stop, finished(run)).reason == "9 rounds done"


def test_a_final_evaluation_that_fails_is_repeated() -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    assert only(Sent, run.answer(1, 2)).kind == "evaluate"
    assert [*run.fail(1, "x"), *run.fail(2, "y")] == [Abandoned(2, {"a": "x", "b": "y"})]
    assert only(Sent, run.after(ROUND_PAUSE_S)) == Sent("evaluate", (1, 2))
    assert run.answer(1, 2, number=2) == [EvaluationDone((1, 2)), Stop("1 rounds done")]


def test_a_final_evaluation_needs_only_its_quorum() -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    run.answer(1, 2)
    run.answer(1, number=2)
    assert decisions(run.after(DEADLINE_S)) == [EvaluationDone((1,)), Stop("1 rounds done")]


@pytest.mark.parametrize(
    "event",
    [
        Tick(),
        NodesConnected(frozenset({1, 2, 3})),
        Described(2, 2, description("b", "i", FEATURES)),
        ReplyAdmitted(1, 1),
        TaskFailed(1, 1, "x"),
        Aggregated(0.1, 2),
        AggregationFailed("x"),
        DescriptionFailed(1, "x"),
    ],
)
def test_after_the_stop_nothing_happens(event: Event) -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    finished(run)
    before = run.state
    run.now += 10_000
    assert run.do(event) == []
    assert run.state == before


# Versions are written.


def test_the_first_version_is_created_before_the_first_task_from_all_ready_clients() -> None:
    run = gathered("abc", fraction=0.3)
    (created,) = run.published
    assert created == CreateFirstVersion(0, FEATURES, (1, 2, 3), progress_of(State()))
    run.answer(*only(Sent, run.opened).nodes)
    assert [type(action) for action in run.published[1:]] == [Publish]


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_version_is_published_with_its_progress_before_it_is_sent(mode: str) -> None:
    run = Run(mode=mode, buffer=2, quorum=1.0)
    run.join("a", "b")
    state = run.state
    for node in (1, 2):
        state, actions = step(state, ReplyAdmitted(node, run.sent[node, 1]), run.now, run.rules)
    assert isinstance(actions[0], Aggregate)
    state, actions = step(state, Aggregated(0.5, 2), run.now, run.rules)
    assert [type(action) for action in actions] == [Publish, SendTasks]
    assert actions[0] == Publish(1, progress_of(state))
    assert progress_of(state)["best_error"] == 0.5


def test_the_last_version_is_published_too() -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    finished(run)
    assert [p.version for p in run.published if isinstance(p, Publish)] == [1]


def test_a_failed_aggregation_publishes_nothing() -> None:
    run = Run()
    run.join("a", "b")
    state = run.state
    for node in (1, 2):
        state, _ = step(state, ReplyAdmitted(node, run.sent[node, 1]), run.now, run.rules)
    state, actions = step(state, AggregationFailed("not finite"), run.now, run.rules)
    assert (state.version, actions) == (0, [])


# A restart.


def saved(run: Run) -> State:
    """Return the state of a server that restarts from disk."""
    progress = json.loads(json.dumps(progress_of(run.state)))
    return resumed(State(), run.state.version, run.state.features or (), progress)


def test_a_restarted_run_continues_from_the_saved_version() -> None:
    run = Run(max_rounds=5)
    run.join("a", "b")
    run.answer(1, 2)
    run.answer(1, 2)
    again = Run(saved(run), max_rounds=5)
    assert only(Sent, again.join("a", "b")) == Sent("train", (1, 2))
    assert again.published == []
    assert len(of_kind(Aggregating, finished(again))) == 3
    assert again.state.version == 5


def test_a_restarted_run_keeps_its_features_and_its_patience() -> None:
    run = Run(patience=3)
    run.errors = iter([1.0] * 9)
    run.join("a", "b")
    run.answer(1, 2)
    run.answer(1, 2)
    again = Run(saved(run), patience=3)
    again.errors = iter([1.0] * 9)
    assert [a for a in again.join("c", features=("x",)) if a.refused]
    again.join("a", "b")
    assert len(of_kind(Aggregating, finished(again))) == 2


def test_a_run_restarted_after_its_last_round_only_evaluates() -> None:
    again = Run(State(version=5, features=FEATURES, initialised=True), max_rounds=5)
    assert only(Sent, again.join("a", "b")) == Sent("evaluate", (1, 2))
    assert only(Stop, finished(again)).reason == "5 rounds done"


def test_a_run_restarted_after_it_converged_only_evaluates() -> None:
    converged = State(
        version=5, features=FEATURES, initialised=True, best_error=0.5, rounds_without_improvement=3
    )
    again = Run(converged, patience=3)
    assert only(Sent, again.join("a", "b")) == Sent("evaluate", (1, 2))
    assert only(Stop, finished(again)).reason == "converged: no improvement in 3 rounds"
