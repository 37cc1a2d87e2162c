"""Who is connected, under which name, and whether its features fit the federation's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from common.model.schema import Schema, SchemaError
from server.coordination.state import (
    Action,
    AskDescription,
    Described,
    DescribeFailed,
    Member,
    Node,
    NodesSeen,
    State,
)
from server.coordination.tasks import given_up, name_of, put, ready, settled

RETRY_S = 5.0
"""Wait before a client that was refused is asked again."""

UNANSWERED_S = 30.0
"""Wait before a client that has not answered is asked again: a busy one must not find a heap of questions."""

MAX_ASKED = 32
"""Clients whose answer is waited for at a time.

A question to a client that is not known yet is many requests. If hundreds came at once to a server that is
busy, all would be too late, and asked again.
"""


def nodes_seen(state: State, event: NodesSeen, now: float, actions: list[Action]) -> State:
    """Clients that are gone are awaited no longer; new ones are asked who they are."""
    for node in sorted(state.members.keys() - event.nodes):
        state = _lost(state, node, "disconnected")
    for node in sorted(event.nodes - state.members.keys()):
        state = put(state, node, Member("asked", now, seen=state.numbers + 1))
    return ask_again(state, now, actions)


def described(state: State, event: Described, now: float, actions: list[Action]) -> State:
    """A client whose name is free and whose features fit is ready to work."""
    known = state.members.get(event.node)
    if known is None or event.number < known.seen:
        return state
    member = replace(
        known, status="ready", ask_again=now, name=event.name, instance=event.instance,
        features=event.features, reason="", drifted=known.drifted or event.drifted,
    )  # fmt: skip
    if event.owner not in (None, event.name):
        reason = f"it says that it is '{event.name}', but its key is that of '{event.owner}'"
        return _refuse(state, event.node, member, reason, now, actions)
    for node, other in state.members.items():
        if node != event.node and other.status == "ready" and other.name == event.name:
            if other.instance != event.instance:
                reason = f"the name '{event.name}' is taken by another client that is connected"
                return _refuse(state, event.node, member, reason, now, actions)
            state = _lost(state, node, "came back as another node")
            break
    if state.features is not None and (misfit := _misfit(state.features, event.features)):
        return _refuse(state, event.node, member, misfit, now, actions)
    work = state.tasks.get(event.node)
    if work is not None and event.number > work.number:
        # A client does one thing after another, in the order in which it was asked: the task was lost.
        state = settled(no_longer_awaited(state, event.node, f"{event.name} never had its task"), event.node)
    return put(state, event.node, member)


def silent(state: State, event: DescribeFailed, now: float) -> State:
    """A client that cannot say who it is has no work to do."""
    member = state.members.get(event.node)
    if member is None or member.status != "asked":
        return state
    refused = replace(member, status="refused", reason=event.reason, ask_again=now + RETRY_S)
    return put(state, event.node, refused)


def ask_again(state: State, now: float, actions: list[Action]) -> State:
    """Ask those who are new, and once more those who were refused or have not answered; not all at once."""
    due = [n for n, m in state.members.items() if m.status != "ready" and now >= m.ask_again]
    if due:
        asked = sum(m.status == "asked" and now < m.ask_again for m in state.members.values())
        due.sort(key=lambda node: state.members[node].ask_again)
        for node in due[: max(0, MAX_ASKED - asked)]:
            state = _asked(state, node, now, actions)
    return state


def adopt_schema(state: State, now: float, actions: list[Action]) -> State:
    """The features that most ready clients have become the federation's; others are refused."""
    chosen_from = {node: state.members[node] for node in ready(state)}
    votes = Counter(tuple(sorted(member.features)) for member in chosen_from.values())
    chosen = max(votes, key=lambda names: (votes[names], names))
    features = next(m.features for m in chosen_from.values() if tuple(sorted(m.features)) == chosen)
    state = replace(state, features=features)
    for node, member in chosen_from.items():
        if misfit := _misfit(features, member.features):
            state = _refuse(state, node, member, misfit, now, actions)
    return state


def no_longer_awaited(state: State, node: Node, reason: str, ask_at: float = 0.0) -> State:
    """The state in which nothing waits for a node's task, and why is known."""
    work = state.tasks.get(node)
    if work is None or not work.awaited:
        return state
    state = given_up(replace(state, failed={**state.failed, node: reason}), node, ask_at)
    if state.round is None or node not in state.round.awaited:
        return state
    return replace(state, round=replace(state.round, awaited=state.round.awaited - {node}))


def _asked(state: State, node: Node, now: float, actions: list[Action]) -> State:
    number = state.numbers + 1
    actions.append(AskDescription(node, number))
    member = replace(state.members[node], ask_again=now + UNANSWERED_S)
    return put(replace(state, numbers=number), node, member)


def _lost(state: State, node: Node, reason: str) -> State:
    name = name_of(state, node)
    state = replace(state, members={n: m for n, m in state.members.items() if n != node})
    state = no_longer_awaited(state, node, f"{name} {reason}")
    return given_up(state, node)


def _refuse(
    state: State, node: Node, member: Member, reason: str, now: float, actions: list[Action]
) -> State:
    if state.members[node].reason != reason:
        state = replace(state, numbers=state.numbers + 1)
        actions.append(AskDescription(node, state.numbers, refused=reason))
    return put(state, node, replace(member, status="refused", reason=reason, ask_again=now + RETRY_S))


def _misfit(federation: tuple[str, ...], features: tuple[str, ...]) -> str | None:
    try:
        Schema(federation).align(features)
    except SchemaError as error:
        return str(error)
    return None
