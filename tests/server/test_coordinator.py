from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from common.settings import FederationSettings
from server.coordinator import RETRY_S, ROUND_PAUSE_S, step, waiting_for
from server.state import (
    Abandon,
    Action,
    Answered,
    Ask,
    Described,
    Event,
    Failed,
    Fold,
    Folded,
    Measured,
    NodesSeen,
    Send,
    State,
    Stop,
    Tick,
)

FEATURES = ("cpu", "memory")
DEADLINE_S, WAIT_S = 60.0, 600.0


class Run:
    """A coordinator, a clock that only this test moves, and the fold that the strategy does for it."""

    def __init__(self, state: State | None = None, **rules: Any) -> None:
        self.rules = FederationSettings(**{"deadline_s": DEADLINE_S, "wait_s": WAIT_S, **rules})
        self.state = state or State()
        self.now = 100.0
        self.errors = iter(0.9**i for i in range(1000))
        self.opened: list[Action] = []

    def do(self, *events: Event) -> list[Action]:
        """What follows from the events, and from the folds that they lead to."""
        found: list[Action] = []
        for event in events:
            self.state, actions = step(self.state, event, self.now, self.rules)
            found += actions
            if any(isinstance(action, Fold) for action in actions):
                found += self.do(Folded(next(self.errors)))
        return found

    def join(self, *names: str, features: tuple[str, ...] = FEATURES) -> list[Action]:
        """Clients connect and say who they are; client `a` is node 1, `b` node 2, and so on."""
        found: list[Action] = []
        for name in names:
            node = ord(name) - ord("a") + 1
            found += self.do(NodesSeen(frozenset({*self.state.members, node})))
            found += self.do(Described(node, name, f"instance of {name}", features))
        return found

    def leave(self, *nodes: int) -> list[Action]:
        return self.do(NodesSeen(frozenset(self.state.members) - set(nodes)))

    def answer(self, *nodes: int, number: int | None = None) -> list[Action]:
        if number is None:
            number = self.state.version + 1
        return self.do(*(Answered(node, number) for node in nodes))

    def after(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self.do(Tick())

    def waiting(self) -> str:
        return waiting_for(self.state, self.now, self.rules)


def gathered(names: str, **rules: Any) -> Run:
    """A run whose first round is open, with all of these clients in it or a sample of them."""
    waiting = Run(min_clients=len(names) + 1)
    waiting.join(*names)
    run = Run(waiting.state, **rules)
    run.opened = run.after(0)
    return run


def only(kind: type[Any], actions: Iterable[Action]) -> Any:
    """The one action of this kind."""
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def of_kind(kind: type[Any], actions: Iterable[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


# A round opens.


def test_a_new_node_is_asked_who_it_is() -> None:
    run = Run()
    assert run.do(NodesSeen(frozenset({2, 1}))) == [Ask(1), Ask(2)]
    assert run.do(NodesSeen(frozenset({2, 1}))) == []


def test_a_node_that_does_not_say_who_it_is_is_asked_again() -> None:
    run = Run()
    run.do(NodesSeen(frozenset({1})))
    assert run.after(RETRY_S - 0.1) == []
    assert run.after(0.2) == [Ask(1)]
    assert run.after(RETRY_S - 0.1) == []
    assert run.after(0.2) == [Ask(1)]


def test_a_description_of_a_node_that_has_left_is_nothing() -> None:
    run = Run(min_clients=1)
    assert run.do(Described(1, "a", "i", FEATURES)) == []
    assert run.state.members == {}


def test_no_round_opens_before_enough_clients_are_ready() -> None:
    run = Run(min_clients=3)
    assert not of_kind(Send, run.join("a", "b"))
    assert not of_kind(Send, run.after(50))
    assert run.waiting().startswith("2 of 3 clients ready after 50 s")
    assert only(Send, run.join("c")) == Send("train", (1, 2, 3), 1)
    assert run.waiting() == "train round 1: 0 of 3 answered after 0 s; awaited: a, b, c"


def test_all_replies_close_a_round_at_once() -> None:
    run = Run()
    run.join("a", "b")
    assert run.answer(1) == []
    assert run.answer(2) == [Fold(1, (1, 2), {}), Send("train", (1, 2), 2)]
    assert run.state.version == 1


def test_the_deadline_closes_a_round_that_has_its_quorum() -> None:
    run = Run(min_clients=4, quorum=0.5)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert run.after(DEADLINE_S - 1) == []
    fold = only(Fold, run.after(1))
    assert (fold.number, fold.nodes) == (1, (1, 3))
    assert fold.failed == {2: "no answer before the deadline", 4: "no answer before the deadline"}


def test_without_its_quorum_a_round_waits_past_the_deadline() -> None:
    run = Run(min_clients=4, quorum=0.75)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert run.after(DEADLINE_S + 100) == []
    assert only(Fold, run.answer(4)).nodes == (1, 3, 4)


def test_a_round_that_never_gets_its_quorum_ends_the_run_and_names_who_was_awaited() -> None:
    run = Run(min_clients=4, quorum=0.75)
    run.join("a", "b", "c", "d")
    run.answer(1, 3)
    assert run.after(WAIT_S - 1) == []
    stop = only(Stop, run.after(1))
    assert stop.reason == "gave up waiting: train round 1: 2 of 4 answered after 600 s; awaited: b, d"
    assert run.state.stopped == stop.reason
    assert run.waiting() == ""


def test_a_quorum_is_no_reason_to_give_up_even_if_the_deadline_is_longer_than_the_wait() -> None:
    run = Run(min_clients=2, quorum=0.5, deadline_s=100, wait_s=10)
    run.join("a", "b")
    run.answer(1)
    assert not of_kind(Stop, [*run.after(50), *run.after(49)])
    assert only(Fold, run.after(1)).nodes == (1,)


@pytest.mark.parametrize(
    ("quorum", "sampled", "needed"),
    [(0.5, 3, 2), (0.5, 4, 2), (0.01, 4, 1), (1.0, 3, 3), (0.75, 4, 3), (0.55, 20, 11), (0.28, 25, 7)],
)
def test_the_quorum_is_a_share_of_the_sampled(quorum: float, sampled: int, needed: int) -> None:
    run = Run(min_clients=sampled, quorum=quorum)
    run.join(*(chr(ord("a") + i) for i in range(sampled)))
    run.answer(*range(1, needed))
    if needed < sampled:
        assert run.after(DEADLINE_S) == []
    assert len(only(Fold, run.answer(needed)).nodes) == needed


def test_clients_that_never_come_end_the_run_with_a_reason() -> None:
    run = Run(min_clients=3)
    run.join("a", "b")
    assert run.after(WAIT_S - 1) == []
    assert only(Stop, run.after(1)).reason == "gave up waiting: 2 of 3 clients ready after 600 s"


def test_each_wait_is_measured_from_its_own_start() -> None:
    run = Run()
    run.after(WAIT_S - 10)
    run.join("a", "b")
    run.now += DEADLINE_S
    run.answer(1, 2)
    assert run.leave(1, 2) == [Abandon(2, {1: "a disconnected", 2: "b disconnected"})]
    assert not of_kind(Stop, [*run.after(2), *run.after(WAIT_S - 10)])
    assert of_kind(Stop, run.after(20))


# Who no longer counts.


def test_a_client_that_leaves_in_mid_round_is_not_awaited() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1, 2)
    fold = only(Fold, run.leave(3))
    assert fold.nodes == (1, 2)
    assert fold.failed == {3: "c disconnected"}


def test_the_answer_of_a_client_that_then_left_still_counts() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1)
    assert run.leave(1) == []
    assert only(Fold, run.answer(2, 3)).nodes == (1, 2, 3)


def test_a_failure_is_not_awaited_and_is_named() -> None:
    run = Run(min_clients=3)
    run.join("a", "b", "c")
    run.answer(1)
    run.do(Failed(2, "out of memory"))
    fold = only(Fold, run.answer(3))
    assert (fold.nodes, fold.failed) == ((1, 3), {2: "out of memory"})


def test_when_all_fail_the_round_is_abandoned_and_repeated_after_a_pause() -> None:
    run = Run()
    run.join("a", "b")
    assert run.do(Failed(1, "NaN"), Failed(2, "OOM")) == [Abandon(1, {1: "NaN", 2: "OOM"})]
    assert run.after(ROUND_PAUSE_S / 2) == []
    assert run.after(ROUND_PAUSE_S / 2) == [Send("train", (1, 2), 1)]
    assert run.state.version == 0


def test_answers_below_the_quorum_are_abandoned_with_the_round() -> None:
    run = Run(min_clients=3, quorum=0.5)
    run.join("a", "b", "c")
    run.answer(1)
    actions = run.do(Failed(2, "x"), Failed(3, "y"))
    assert actions == [Abandon(1, {2: "x", 3: "y"})]
    assert only(Send, run.after(ROUND_PAUSE_S)).nodes == (1, 2, 3)


def test_a_round_that_all_clients_left_is_abandoned_and_waits_for_new_ones() -> None:
    run = Run()
    run.join("a", "b")
    assert run.leave(1, 2) == [Abandon(1, {1: "a disconnected", 2: "b disconnected"})]
    assert not of_kind(Send, run.after(10))
    assert run.waiting().startswith("0 of 2 clients ready")
    assert only(Send, run.join("c", "d")).nodes == (3, 4)


def test_a_late_reply_frees_the_client_but_counts_in_no_other_round() -> None:
    run = gathered("abc", quorum=0.5)
    run.answer(1, 2)
    assert only(Send, run.after(DEADLINE_S)) == Send("train", (1, 2), 2)  # c is still busy with round 1
    assert run.answer(3, number=1) == []
    assert run.state.round is not None
    assert run.state.round.awaited == {1, 2}
    actions = run.answer(1, 2, number=2)
    assert only(Fold, actions).nodes == (1, 2)
    assert only(Send, actions) == Send("train", (1, 2, 3), 3)


def test_a_late_failure_frees_the_client_too() -> None:
    run = gathered("abc", quorum=0.5)
    run.answer(1, 2)
    run.after(DEADLINE_S)
    assert run.do(Failed(3, "too late")) == []
    assert only(Send, run.answer(1, 2)).nodes == (1, 2, 3)


def test_an_answer_to_an_earlier_round_does_not_free_a_client_from_this_one() -> None:
    run = Run(min_clients=3, quorum=0.5)
    run.join("a", "b", "c")
    run.answer(1, 2, 3)
    run.answer(1, 2, number=2)
    run.answer(3, number=1)  # once more
    actions = run.after(DEADLINE_S)
    assert only(Fold, actions).nodes == (1, 2)
    assert not of_kind(Send, [*actions, *run.after(1)])  # c still works on round 2


def test_a_client_that_describes_itself_again_still_owes_its_reply() -> None:
    run = gathered("abc", quorum=0.5)
    run.do(Described(3, "c", "instance of c", FEATURES))  # it was asked twice, and answers twice
    run.answer(1, 2)
    assert only(Send, run.after(DEADLINE_S)).nodes == (1, 2)


def test_while_clients_are_busy_the_wait_says_so() -> None:
    run = gathered("az", quorum=0.5)
    run.answer(1)
    assert not of_kind(Send, run.after(DEADLINE_S))
    run.after(30)
    assert "2 of 2 clients ready" not in run.waiting()
    assert "z" in run.waiting()
    assert "z" in only(Stop, run.after(WAIT_S)).reason


def test_a_question_that_failed_says_nothing_about_a_task() -> None:
    run = gathered("ab")
    assert run.do(Failed(1, "the question came too late", 0)) == []
    assert run.state.round is not None
    assert run.state.round.awaited == {1, 2}
    assert only(Fold, run.answer(1, 2)).nodes == (1, 2)


def test_a_late_failure_of_an_earlier_round_says_nothing_about_this_one() -> None:
    run = gathered("ab")
    run.answer(1, 2)
    assert run.do(Failed(1, "late", 1)) == []
    assert only(Fold, run.answer(1, 2)).nodes == (1, 2)


def test_nothing_counts_twice() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    assert run.answer(1, 1, 1) == []
    assert run.do(Failed(1, "changed its mind")) == []
    assert only(Fold, run.answer(2)) == Fold(1, (1, 2), {})


def test_answers_of_strangers_are_nothing() -> None:
    run = Run()
    run.join("a", "b")
    assert run.answer(9) == []
    assert run.do(Failed(9, "?")) == []
    assert only(Fold, run.answer(1, 2)).nodes == (1, 2)


# Names.


def test_of_two_clients_of_one_name_the_second_is_refused_until_the_first_left() -> None:
    run = Run(min_clients=2)
    run.join("a")
    run.do(NodesSeen(frozenset({1, 9})))
    taken = "the name 'a' is taken by another client that is connected"
    assert run.do(Described(9, "a", "another", FEATURES)) == [Ask(9, refused=taken)]
    assert not of_kind(Send, run.after(1))
    assert f"refused: a: {taken}" in run.waiting()

    assert run.after(RETRY_S) == [Ask(9)]
    assert run.do(Described(9, "a", "another", FEATURES)) == []  # it was told
    run.leave(1)
    assert run.after(RETRY_S) == [Ask(9)]
    run.do(Described(9, "a", "another", FEATURES))
    assert only(Send, run.join("b")).nodes == (2, 9)
    assert "refused" not in run.waiting()


def test_a_client_that_comes_back_as_another_node_replaces_itself() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    run.do(NodesSeen(frozenset({1, 2, 9})))
    run.do(Described(9, "a", "instance of a", FEATURES))
    assert set(run.state.members) == {2, 9}
    fold = only(Fold, [*run.answer(2), *run.after(DEADLINE_S)])
    assert (fold.nodes, fold.failed) == ((2,), {1: "a came back as another node"})
    assert run.state.round is not None
    assert run.state.round.awaited == {2, 9}


def test_a_client_whose_question_failed_is_refused_with_the_reason_and_asked_again() -> None:
    run = Run()
    run.do(NodesSeen(frozenset({5})))
    run.do(Failed(5, "not a flockwatch client"))
    assert "5: not a flockwatch client" in run.waiting()
    assert run.after(RETRY_S) == [Ask(5)]


# Features.


def test_the_features_of_most_become_the_federations() -> None:
    run = Run(min_clients=3)
    run.join("a", features=("cpu", "disk"))
    run.join("b", features=FEATURES)
    actions = run.join("c", features=("memory", "cpu"))
    refusal = only(Ask, [action for action in actions if action != Ask(3)])
    assert refusal.node == 1
    for part in ("missing 'memory'", "extra 'disk'"):
        assert part in refusal.refused
        assert part in run.waiting()
    assert run.state.features is not None
    assert sorted(run.state.features) == sorted(FEATURES)
    assert only(Send, run.join("d")).nodes == (2, 3, 4)


def test_reordered_features_fit() -> None:
    run = Run(min_clients=2)
    run.join("a", features=("memory", "cpu"))
    assert only(Send, run.join("b", features=("cpu", "memory"))).nodes == (1, 2)


def test_once_set_the_features_do_not_change() -> None:
    run = Run(min_clients=2)
    run.join("a", "b")
    refusals = [action for action in run.join("c", "d", "e", features=("x",)) if action.refused]
    assert [refusal.node for refusal in refusals] == [3, 4, 5]
    assert all("missing 'cpu', 'memory'; extra 'x'" in refusal.refused for refusal in refusals)
    assert run.state.features == FEATURES
    assert only(Send, run.answer(1, 2)).nodes == (1, 2)


def test_features_that_are_set_beforehand_are_not_voted_on() -> None:
    run = Run(State(features=("x",)), min_clients=1)
    assert not of_kind(Send, run.join("a", "b"))
    assert only(Send, run.join("c", features=("x",))).nodes == (3,)


def test_a_refused_client_is_told_once_and_admitted_when_it_fits() -> None:
    run = Run(State(features=FEATURES), min_clients=1)
    told = [a for a in run.join("a", features=("cpu",)) if a.refused]
    assert len(told) == 1
    assert run.after(RETRY_S) == [Ask(1)]
    assert run.do(Described(1, "a", "instance of a", ("cpu",))) == []
    assert run.after(RETRY_S) == [Ask(1)]
    assert only(Send, run.do(Described(1, "a", "instance of a", FEATURES))).nodes == (1,)


def test_a_tie_of_features_falls_the_same_way_in_any_order() -> None:
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
    sent = only(Send, gathered("abcdefghij", fraction=fraction, min_clients=min_clients).opened)
    assert len(sent.nodes) == len(set(sent.nodes)) == size
    assert set(sent.nodes) <= set(range(1, 11))


def test_over_the_rounds_everybody_is_sampled() -> None:
    run, seen = gathered("abcdefghij", fraction=0.3), set()
    sent = only(Send, run.opened)
    for _ in range(30):
        seen |= set(sent.nodes)
        sent = only(Send, run.answer(*sent.nodes))
    assert seen == set(range(1, 11))


def test_the_same_state_samples_the_same_clients() -> None:
    first, second = (only(Send, gathered("abcdefghij", fraction=0.3).opened) for _ in range(2))
    assert first == second


def test_a_sample_that_failed_is_not_drawn_for_ever() -> None:
    """Two broken clients among ten must not hold up the run because chance put them together once."""
    run = gathered("abcdefghij", fraction=0.2, min_clients=2)
    sent = only(Send, run.opened)
    broken = set(sent.nodes)
    for _ in range(100):
        sound = [node for node in sent.nodes if node not in broken]
        actions = [*run.answer(*sound), *run.do(*(Failed(n, "broken") for n in broken & set(sent.nodes)))]
        if of_kind(Fold, actions):
            return
        sent = only(Send, [*actions, *run.after(ROUND_PAUSE_S)])
    pytest.fail("the same two clients were sampled a hundred times")


# The end.


def finished(run: Run) -> list[Action]:
    """Everything that happens while all clients answer, until the run stops."""
    found: list[Action] = []
    for _ in range(1000):
        actions = run.after(0.1)
        if run.state.round is not None:
            actions += run.answer(*run.state.round.awaited)
        found += actions
        if run.state.stopped is not None:
            return found
    pytest.fail("the run does not end")


def test_after_the_last_round_the_final_version_is_measured_once() -> None:
    run = Run(max_rounds=2)
    actions = [*run.join("a", "b"), *finished(run)]
    assert [a for a in actions if not isinstance(a, Ask)] == [
        Send("train", (1, 2), 1),
        Fold(1, (1, 2), {}),
        Send("train", (1, 2), 2),
        Fold(2, (1, 2), {}),
        Send("evaluate", (1, 2), 3),
        Measured((1, 2)),
        Stop("2 rounds done"),
    ]
    assert run.state.version == 2


def test_patience_ends_the_run_when_nothing_improves() -> None:
    run = Run(patience=3, max_rounds=50)
    run.errors = iter([1.0, 0.5, 0.5, 0.4999, 0.5, *[0.1] * 50])
    run.join("a", "b")
    actions = finished(run)
    assert len(of_kind(Fold, actions)) == 5
    assert only(Measured, actions).nodes == (1, 2)
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


def test_a_final_measurement_that_fails_is_repeated() -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    assert only(Send, run.answer(1, 2)).kind == "evaluate"
    assert run.do(Failed(1, "x"), Failed(2, "y")) == [Abandon(2, {1: "x", 2: "y"})]
    assert only(Send, run.after(ROUND_PAUSE_S)) == Send("evaluate", (1, 2), 2)
    assert run.answer(1, 2, number=2) == [Measured((1, 2)), Stop("1 rounds done")]


def test_a_final_measurement_needs_only_its_quorum() -> None:
    run = Run(max_rounds=1)
    run.join("a", "b")
    run.answer(1, 2)
    run.answer(1, number=2)
    assert run.after(DEADLINE_S) == [Measured((1,)), Stop("1 rounds done")]


@pytest.mark.parametrize(
    "event",
    [
        Tick(),
        NodesSeen(frozenset({1, 2, 3})),
        Described(2, "b", "i", FEATURES),
        Answered(1, 1),
        Failed(1, "x"),
        Folded(0.1),
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


# A restart.


def saved(run: Run, **changes: Any) -> State:
    """What the registry keeps of a state."""
    state = State(
        version=run.state.version,
        features=run.state.features,
        best_error=run.state.best_error,
        rounds_without_improvement=run.state.rounds_without_improvement,
    )
    return replace(state, **changes)


def test_a_restarted_run_goes_on_from_the_saved_version() -> None:
    run = Run(max_rounds=5)
    run.join("a", "b")
    run.answer(1, 2)
    run.answer(1, 2)
    again = Run(saved(run), max_rounds=5)
    assert only(Send, again.join("a", "b")) == Send("train", (1, 2), 3)
    assert len(of_kind(Fold, finished(again))) == 3
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
    assert len(of_kind(Fold, finished(again))) == 2


def test_a_run_restarted_after_its_last_round_only_measures() -> None:
    again = Run(State(version=5, features=FEATURES), max_rounds=5)
    assert only(Send, again.join("a", "b")) == Send("evaluate", (1, 2), 6)
    assert only(Stop, finished(again)).reason == "5 rounds done"


def test_a_run_restarted_after_it_converged_only_measures() -> None:
    converged = State(version=5, features=FEATURES, best_error=0.5, rounds_without_improvement=3)
    again = Run(converged, patience=3)
    assert only(Send, again.join("a", "b")) == Send("evaluate", (1, 2), 6)
    assert only(Stop, finished(again)).reason == "converged: no improvement in 3 rounds"


# Any schedule.


class AnySchedule(RuleBasedStateMachine):
    """Clients that join, leave, answer, fail, repeat themselves and sleep, in any order."""

    @initialize(
        min_clients=st.integers(1, 3),
        fraction=st.sampled_from([0.3, 1.0]),
        quorum=st.sampled_from([0.3, 0.5, 1.0]),
        patience=st.integers(0, 2),
        max_rounds=st.integers(1, 6),
        features=st.sampled_from([None, FEATURES]),
    )
    def begin(self, features: tuple[str, ...] | None, **rules: Any) -> None:
        self.rules = FederationSettings(**rules, deadline_s=10, wait_s=30)
        self.state = State(features=features)
        self.now = 0.0
        self.next_node = 1
        self.who: dict[int, Described] = {}
        """What each connected node says when it is asked."""
        self.asked: list[int] = []
        """Nodes that owe an answer to a question, once for each."""
        self.owes: dict[int, int] = {}
        """The round that each node works on."""
        self.sampled: dict[int, set[int]] = {}
        self.admitted: dict[int, set[int]] = {}
        self.past: list[Described | Answered | Failed] = []
        self.stops = 0

    def do(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(before, event, self.now, self.rules)
        assert self.state.version == before.version + isinstance(event, Folded)
        if before.stopped is not None:
            assert actions == []
            assert self.state == before
        if before.features is not None:
            assert self.state.features == before.features
        if self.state.stopped is None:
            self.check_members()
        for action in actions:
            assert self.stops == 0, "nothing follows a stop"
            self.obey(action)

    def check_members(self) -> None:
        ready = [m for m in self.state.members.values() if m.status == "ready"]
        assert len({m.name for m in ready}) == len(ready)
        assert set(self.state.members) <= set(self.who)
        if self.state.features is not None:
            assert all(sorted(m.features) == sorted(self.state.features) for m in ready)
        if self.state.round is not None:
            assert not self.state.round.awaited & self.state.round.answered
            assert self.state.round.awaited <= self.state.members.keys()

    def obey(self, action: Action) -> None:
        match action:
            case Ask(node):
                assert node in self.who
                self.asked.append(node)
            case Send(_, nodes, number):
                assert nodes
                assert number == self.state.version + 1
                assert len(nodes) >= self.rules.min_clients
                for node in nodes:
                    assert node in self.who
                    assert node not in self.owes, f"node {node} has a task already"
                    self.owes[node] = number
                self.sampled[number] = set(nodes)
                self.admitted[number] = set()
            case Fold(number, nodes, failed):
                assert number == self.state.version + 1
                assert set(nodes) <= self.sampled[number]
                assert set(nodes) == self.admitted[number]
                assert len(nodes) >= self.rules.quorum * len(self.sampled[number]) - 1e-9
                assert set(nodes) | set(failed) == self.sampled[number]
                self.do(Folded(float(self.error)))
            case Measured(nodes):
                assert set(nodes) == self.admitted[self.state.version + 1]
            case Abandon(number, failed):
                assert number == self.state.version + 1
                assert set(failed) <= self.sampled[number]
            case Stop(reason):
                assert reason
                self.stops += 1

    error = 1.0

    @rule(
        name=st.sampled_from("abcd"),
        instance=st.sampled_from(["one", "two"]),
        features=st.sampled_from([FEATURES, FEATURES[::-1], ("cpu",)]),
    )
    @precondition(lambda self: len(self.who) < 7)
    def a_client_connects(self, name: str, instance: str, features: tuple[str, ...]) -> None:
        self.who[self.next_node] = Described(self.next_node, name, instance, features)
        self.next_node += 1
        self.do(NodesSeen(frozenset(self.who)))

    @precondition(lambda self: self.who)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.who)))
        del self.who[node]
        self.owes.pop(node, None)
        self.do(NodesSeen(frozenset(self.who)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), sound=st.integers(0, 9))
    def a_question_is_answered(self, data: st.DataObject, sound: int) -> None:
        node = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        event = self.who.get(node) or Described(node, "gone", "gone", FEATURES)
        self.past.append(event)
        self.do(Failed(node, "no answer", 0) if sound == 0 else event)

    @precondition(lambda self: self.owes)
    @rule(data=st.data(), error=st.sampled_from([1.0, 0.5, 0.4]), sound=st.integers(0, 3))
    def a_task_is_answered(self, data: st.DataObject, error: float, sound: int) -> None:
        self.error = error
        node = data.draw(st.sampled_from(sorted(self.owes)))
        number = self.owes.pop(node)
        if sound == 0:
            self.past.append(Failed(node, "training failed", number))
            self.do(self.past[-1])
            return
        current = self.state.round
        if current is not None and current.number == number and node in current.awaited:
            self.admitted[number].add(node)
        self.past.append(Answered(node, number))
        self.do(Answered(node, number))

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def something_is_said_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.past))
        if not isinstance(event, Described) and self.owes.get(event.node) == event.number:
            return  # the node was asked for the same version again: this is its answer, not an old one
        self.do(event)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 6.0, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(Tick())
        assert self.state.stopped is not None or waiting_for(self.state, self.now, self.rules)

    def teardown(self) -> None:
        """Nobody answers any more: in the end the run stops, and says why."""
        if not hasattr(self, "state"):
            return
        limit = self.now + (len(self.who) + 2) * 2 * self.rules.wait_s
        while self.state.stopped is None:
            assert self.now < limit, waiting_for(self.state, self.now, self.rules)
            self.now += 3.0
            self.do(Tick())
            assert self.state.stopped is not None or waiting_for(self.state, self.now, self.rules)
        assert self.stops == 1
        assert self.state.stopped


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
