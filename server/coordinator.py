"""Who trains next, when a round closes, when the run ends: a fold over a state that can be saved.

`step(state, event, now, settings)` gives the next state and the actions that follow from it. There is no
clock, no socket and no Flower here: time and everything that happens are arguments, so that every race
is a unit test.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Literal

from common.schema import Schema, SchemaError
from common.settings import FederationSettings
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
    Member,
    Node,
    NodesSeen,
    Round,
    Send,
    State,
    Stop,
    Tick,
)

RETRY_S = 5.0
"""Wait before a client that was refused or did not answer is asked again."""

ROUND_PAUSE_S = 1.0
"""Wait after a round that failed, so that a fleet in trouble is not flooded."""


def step(state: State, event: Event, now: float, settings: FederationSettings) -> tuple[State, list[Action]]:
    """What follows from an event.

    Args:
        state: As the last step left it.
        event: What happened.
        now: Seconds on any clock that never goes back.
        settings: The rules of the federation.

    Returns:
        The next state, and what must be done, in order.
    """
    if state.stopped is not None:
        return state, []
    actions: list[Action] = []
    match event:
        case NodesSeen(nodes):
            state = _nodes_seen(state, nodes, now, actions)
        case Described():
            state = _described(state, event, now, actions)
        case Answered(node, number):
            state = _answered(state, node, number)
        case Failed():
            state = _failed(state, event, now)
        case Folded():
            state = _folded(state, event, settings)
        case Tick():
            state = _ask_again(state, now, actions)
    return _advance(state, now, settings, actions), actions


def waiting_for(state: State, now: float, settings: FederationSettings) -> str:
    """What the run is waiting for and for how long, in one line for people; empty if for nothing."""
    if state.round is not None:
        open_round = state.round
        names = ", ".join(sorted(_name(state, node) for node in open_round.awaited))
        return (
            f"{open_round.kind} round {open_round.number}: "
            f"{len(open_round.answered)} of {open_round.sampled} answered "
            f"after {now - open_round.opened:.0f} s; awaited: {names}"
        )
    if state.stopped is None and state.waiting_since is not None:
        at_work = [_name(state, node) for node in _ready(state) if node in state.owes]
        refused = [f"{m.name or node}: {m.reason}" for node, m in state.members.items() if m.reason]
        parts = [
            f"{len(_idle(state))} of {settings.min_clients} clients ready "
            f"after {now - state.waiting_since:.0f} s",
            f"still at an earlier task: {', '.join(at_work)}" if at_work else "",
            f"refused: {'; '.join(refused)}" if refused else "",
        ]
        return "; ".join(part for part in parts if part)
    return ""


def _name(state: State, node: Node) -> str:
    member = state.members.get(node)
    return member.name if member and member.name else str(node)


def _ready(state: State) -> list[Node]:
    return sorted(node for node, member in state.members.items() if member.status == "ready")


def _idle(state: State) -> list[Node]:
    return [node for node in _ready(state) if node not in state.owes]


def _put(state: State, node: Node, member: Member) -> State:
    return replace(state, members={**state.members, node: member})


def _nodes_seen(state: State, nodes: frozenset[Node], now: float, actions: list[Action]) -> State:
    for node in sorted(state.members.keys() - nodes):
        state = _lose(state, node, "disconnected")
        state = _settled(state, node)
    for node in sorted(nodes - state.members.keys()):
        state = _put(state, node, Member("asked", ask_again=now + RETRY_S))
        actions.append(Ask(node))
    return state


def _lose(state: State, node: Node, reason: str) -> State:
    """The state without a client; an open round no longer waits for it."""
    name = _name(state, node)
    state = replace(state, members={n: m for n, m in state.members.items() if n != node})
    return _no_longer_awaited(state, node, f"{name} {reason}")


def _no_longer_awaited(state: State, node: Node, reason: str) -> State:
    if state.round is None or node not in state.round.awaited:
        return state
    failed = {**state.round.failed, node: reason}
    return replace(state, round=replace(state.round, awaited=state.round.awaited - {node}, failed=failed))


def _described(state: State, event: Described, now: float, actions: list[Action]) -> State:
    if event.node not in state.members:
        return state
    member = Member("ready", now, event.name, event.instance, event.features)
    for node, other in state.members.items():
        if node != event.node and other.status == "ready" and other.name == event.name:
            if other.instance != event.instance:
                reason = f"the name '{event.name}' is taken by another client that is connected"
                return _refuse(state, event.node, member, reason, now, actions)
            state = _lose(state, node, "came back as another node")
            break
    if state.features is not None and (misfit := _misfit(state.features, event.features)):
        return _refuse(state, event.node, member, misfit, now, actions)
    return _put(state, event.node, member)


def _refuse(
    state: State, node: Node, member: Member, reason: str, now: float, actions: list[Action]
) -> State:
    if state.members[node].reason != reason:
        actions.append(Ask(node, refused=reason))
    return _put(state, node, replace(member, status="refused", reason=reason, ask_again=now + RETRY_S))


def _misfit(federation: tuple[str, ...], features: tuple[str, ...]) -> str | None:
    try:
        Schema(federation).align(features)
    except SchemaError as error:
        return str(error)
    return None


def _ask_again(state: State, now: float, actions: list[Action]) -> State:
    for node, member in state.members.items():
        if member.status != "ready" and now >= member.ask_again:
            state = _put(state, node, replace(member, ask_again=now + RETRY_S))
            actions.append(Ask(node))
    return state


def _settled(state: State, node: Node) -> State:
    """The state in which a node owes nothing."""
    return replace(state, owes={n: number for n, number in state.owes.items() if n != node})


def _answered(state: State, node: Node, number: int) -> State:
    if state.owes.get(node) == number:
        state = _settled(state, node)
    current = state.round
    if current is None or current.number != number or node not in current.awaited:
        return state
    return replace(
        state,
        round=replace(current, awaited=current.awaited - {node}, answered=current.answered | {node}),
    )


def _failed(state: State, event: Failed, now: float) -> State:
    node, owed = event.node, state.owes.get(event.node)
    member = state.members.get(node)
    if member is not None and member.status == "asked" and not event.number:
        state = _put(
            state, node, replace(member, status="refused", reason=event.reason, ask_again=now + RETRY_S)
        )
    if owed is None or event.number not in (None, owed):
        return state
    state = _settled(state, node)
    if state.round is None or state.round.number != owed:
        return state
    return _no_longer_awaited(state, node, event.reason)


def _folded(state: State, event: Folded, settings: FederationSettings) -> State:
    error = event.error
    improved = (
        event.drifted or state.best_error is None or error < state.best_error * (1 - settings.min_improvement)
    )
    return replace(
        state,
        version=state.version + 1,
        best_error=error if improved else state.best_error,
        rounds_without_improvement=0 if improved else state.rounds_without_improvement + 1,
    )


def _advance(state: State, now: float, settings: FederationSettings, actions: list[Action]) -> State:
    """Close the round that can be closed, or open the next one."""
    if state.round is not None:
        return _close(state, state.round, now, settings, actions)
    if settings.patience and state.rounds_without_improvement >= settings.patience:
        state = replace(state, ending=f"converged: no improvement in {settings.patience} rounds")
    elif state.version >= settings.max_rounds:
        state = replace(state, ending=f"{settings.max_rounds} rounds done")
    return _open(state, now, settings, actions)


def _close(
    state: State, current: Round, now: float, settings: FederationSettings, actions: list[Action]
) -> State:
    # Less a hair, since 0.28 * 25 is a little more than 7.
    enough = len(current.answered) >= max(1, math.ceil(settings.quorum * current.sampled - 1e-9))
    due = now >= current.opened + settings.deadline_s
    closed = replace(state, round=None, waiting_since=None)
    if enough and (due or not current.awaited):
        late = {node: "no answer before the deadline" for node in sorted(current.awaited)}
        nodes, failed = tuple(sorted(current.answered)), {**current.failed, **late}
        if current.kind == "train":
            actions.append(Fold(current.number, nodes, failed))
            return closed
        actions.append(Measured(nodes))
        return _stop(closed, state.ending, actions)
    if not current.awaited:
        actions.append(Abandon(current.number, current.failed))
        return replace(closed, not_before=now + ROUND_PAUSE_S)
    if not enough and now >= current.opened + settings.wait_s:
        return _stop(closed, f"gave up waiting: {waiting_for(state, now, settings)}", actions)
    return state


def _open(state: State, now: float, settings: FederationSettings, actions: list[Action]) -> State:
    if state.waiting_since is None:
        state = replace(state, waiting_since=now)
    if now < state.not_before:
        return state
    if state.features is None and len(_ready(state)) >= settings.min_clients:
        state = _adopt_schema(state, now, actions)
    idle = _idle(state)
    if state.features is not None and len(idle) >= settings.min_clients:
        size = max(settings.min_clients, round(settings.fraction * len(idle)))
        number = state.version + 1
        # Seeded by the state, so that a run can be told again; a sample that failed is not drawn again.
        nodes = tuple(sorted(random.Random(f"{number}/{state.tries}").sample(idle, size)))  # noqa: S311
        kind: Literal["train", "evaluate"] = "evaluate" if state.ending else "train"
        actions.append(Send(kind, nodes, number))
        return replace(
            state,
            owes={**state.owes, **dict.fromkeys(nodes, number)},
            tries=state.tries + 1,
            round=Round(kind, number, now, len(nodes), frozenset(nodes)),
            waiting_since=None,
        )
    if state.waiting_since is not None and now >= state.waiting_since + settings.wait_s:
        return _stop(state, f"gave up waiting: {waiting_for(state, now, settings)}", actions)
    return state


def _adopt_schema(state: State, now: float, actions: list[Action]) -> State:
    """The features that most ready clients have become the federation's; others are refused."""
    ready = {node: state.members[node] for node in _ready(state)}
    votes = Counter(tuple(sorted(member.features)) for member in ready.values())
    chosen = max(votes, key=lambda names: (votes[names], names))
    features = next(m.features for m in ready.values() if tuple(sorted(m.features)) == chosen)
    state = replace(state, features=features)
    for node, member in ready.items():
        if misfit := _misfit(features, member.features):
            state = _refuse(state, node, member, misfit, now, actions)
    return state


def _stop(state: State, reason: str, actions: list[Action]) -> State:
    actions.append(Stop(reason))
    return replace(state, round=None, stopped=reason)
