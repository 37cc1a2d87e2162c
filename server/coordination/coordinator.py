"""Who trains next, when updates become a version, when the run ends: a fold over a state that can be saved.

`step(state, event, now, settings)` gives the next state and the actions that follow from it. There is no
clock, no socket and no Flower here: time and everything that happens are arguments, so that every race
is a unit test.

Both modes are one machine: tasks in flight, and a buffer of admitted updates. Synchronous: a round gives
tasks to a sample and folds when all of them, or a quorum at the deadline, have answered. Asynchronous: an
idle client gets a task at once, and the buffer is folded when it is full. Whatever is in the buffer is
folded, each update discounted by its staleness: an answer that came too late for its round is used in the
next. Sources: McMahan et al. 2017 (FedAvg); Nguyen et al. 2022 (FedBuff); Xie et al. 2019 (FedAsync).
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from common.settings import FederationSettings
from server.coordination import members, tasks
from server.coordination.state import (
    AbandonRound,
    Action,
    Aggregate,
    Aggregated,
    AggregationFailed,
    BufferedUpdate,
    Described,
    DescribeFailed,
    DropUpdate,
    EvaluationDone,
    Event,
    Kind,
    Node,
    NodesSeen,
    PendingTask,
    ReplyAdmitted,
    Round,
    State,
    Stop,
    TaskFailed,
    Tick,
    UpdateShare,
)
from server.coordination.waiting import waiting_for

ROUND_PAUSE_S = 1.0
"""Wait after a round that failed, so that a fleet in trouble is not flooded."""

REST_S = 5.0
"""Asynchronous: wait before a client whose task failed is given another."""


def step(state: State, event: Event, now: float, settings: FederationSettings) -> tuple[State, list[Action]]:
    """What follows from an event.

    Args:
        state: As the last step left it.
        event: What happened.
        now: Seconds on any clock that never goes back.
        settings: The rules of the federation.

    Returns:
        The next state, and the actions to take, in order. `Aggregate` must be answered with `Aggregated` or
        `AggregationFailed` before any other event.
    """
    if state.stopped is not None:
        return state, []
    actions: list[Action] = []
    match event:
        case NodesSeen():
            state = members.nodes_seen(state, event, now, actions)
        case Described():
            state = members.described(state, event, now, actions)
        case DescribeFailed():
            state = members.silent(state, event, now)
        case ReplyAdmitted():
            state = _answered(state, event, now, settings, actions)
        case TaskFailed():
            state = _failed(state, event, now)
        case Aggregated():
            state = _folded(state, event, now, settings)
        case AggregationFailed():
            state = replace(state, folding=False, not_before=now + ROUND_PAUSE_S)
        case Tick():
            state = members.ask_again(state, now, actions)
    state = tasks.without_relics(state, settings)
    return _advance(tasks.overdue(state, now, actions), now, settings, actions), actions


def _answered(
    state: State, event: ReplyAdmitted, now: float, settings: FederationSettings, actions: list[Action]
) -> State:
    work = state.tasks.get(event.node)
    if work is None or work.number != event.number:
        return state
    state = _counted(tasks.settled(state, event.node), event.node, work)
    paces = {**state.paces, work.name: tasks.learned(state.paces.get(work.name), now - work.sent)}
    member = state.members.get(event.node)
    if member is not None:
        state = tasks.put(state, event.node, replace(member, drifted=event.drifted))
    if work.kind == "evaluate":
        return state
    state = replace(state, paces=paces)
    behind = state.version - work.version
    if state.ending:
        actions.append(DropUpdate(event.number, event.node, "it came after the last fold"))
        return state
    if behind > settings.staleness_limit:
        actions.append(DropUpdate(event.number, event.node, f"it is {behind} versions behind"))
        return state
    held = BufferedUpdate(event.number, event.node, work.version, work.wave)
    waiting_since = now if settings.mode == "asynchronous" else state.waiting_since
    return replace(state, buffer=(*state.buffer, held), waiting_since=waiting_since)


def _counted(state: State, node: Node, work: PendingTask) -> State:
    """The open round knows of the answer, if it asked for it, even if it no longer waited."""
    current = state.round
    if current is None or work.wave != current.wave:
        return state
    state = replace(state, failed={n: why for n, why in state.failed.items() if n != node})
    answered = current.answered | {node}
    return replace(state, round=replace(current, awaited=current.awaited - {node}, answered=answered))


def _failed(state: State, event: TaskFailed, now: float) -> State:
    work, member = state.tasks.get(event.node), state.members.get(event.node)
    if work is None or work.number != event.number:
        return state
    state = tasks.settled(members.no_longer_awaited(state, event.node, event.reason), event.node)
    if member is not None and not work.wave:
        state = tasks.put(state, event.node, replace(member, rest_until=now + REST_S))
    return state


def _folded(state: State, event: Aggregated, now: float, settings: FederationSettings) -> State:
    state = replace(
        state, version=state.version + 1, folding=False, failed={}, waiting_since=None,
        paced_until=now + settings.interval_s,
    )  # fmt: skip
    unjudged = state.unjudged + event.updates
    if settings.mode == "asynchronous" and unjudged < len(tasks.ready(state)) and not event.drifted:
        return replace(state, unjudged=unjudged)  # too few for a round's worth: one client is no measure
    error = event.error
    improved = (
        event.drifted or state.best_error is None or error < state.best_error * (1 - settings.min_improvement)
    )
    return replace(
        state,
        unjudged=0,
        best_error=error if improved else state.best_error,
        rounds_without_improvement=0 if improved else state.rounds_without_improvement + 1,
    )


def _advance(state: State, now: float, settings: FederationSettings, actions: list[Action]) -> State:
    """Do what can be done now: close a round or open one, fold, put idle clients to work, or stop."""
    if state.folding:
        return state
    if state.round is not None:
        return _close(state, state.round, now, settings, actions)
    if settings.patience and state.rounds_without_improvement >= settings.patience:
        state = replace(state, ending=f"converged: no improvement in {settings.patience} rounds")
    elif state.version >= settings.max_rounds:
        state = replace(state, ending=f"{settings.max_rounds} rounds done")
    if state.ending:
        actions.extend(DropUpdate(h.number, h.node, "it came after the last fold") for h in state.buffer)
        state = replace(state, buffer=())
    if now < state.paced_until and not state.ending:
        return state
    if state.waiting_since is None:
        state = replace(state, waiting_since=now)
    begun = state.version > 0 or any(member.given >= 0 for member in state.members.values())
    enough = 1 if settings.mode == "asynchronous" and begun else settings.min_clients
    if state.features is None and len(tasks.ready(state)) >= enough:
        state = members.adopt_schema(state, now, actions)
    if state.features is not None and now >= state.not_before:
        if settings.mode == "asynchronous" and not state.ending:
            state = _stream(state, now, settings, enough, actions)
        else:
            state = _open(state, now, settings, enough, actions)
    since = state.waiting_since
    if not state.folding and state.round is None and since is not None and now >= since + settings.wait_s:
        return _stop(state, f"gave up waiting: {waiting_for(state, now, settings)}", actions)
    return state


def _stream(
    state: State, now: float, settings: FederationSettings, enough: int, actions: list[Action]
) -> State:
    """Asynchronous: fold a full buffer, or else give every idle client the newest version."""
    if _is_full(state, settings):
        return _fold(state, settings, actions)
    idle = tasks.idle(state, now)
    if len(state.buffer) >= settings.buffer:  # of a first version that waits for its quorum
        held = {held.node for held in state.buffer}
        idle = [node for node in idle if node not in held]
    if not idle or len(tasks.ready(state)) < enough:
        return state
    by_turn = sorted(idle, key=lambda n: (not state.members[n].drifted, state.members[n].turn, n))
    room = len(idle) if settings.in_flight is None else settings.in_flight - len(tasks.at_work(state))
    chosen = by_turn[: max(0, room)]
    return tasks.give(state, "train", chosen, now, settings, 0, actions) if chosen else state


def _is_full(state: State, settings: FederationSettings) -> bool:
    if len(state.buffer) < settings.buffer:
        return False
    if state.version:
        return True
    # The first version is made of a quorum, so that the gate knows what is usual, and no client leads.
    nodes = {held.node for held in state.buffer}
    coming = [node for node in tasks.at_work(state) if node not in nodes]
    return not coming or len(nodes) >= _quorum(len(tasks.ready(state)), settings)


def _open(
    state: State, now: float, settings: FederationSettings, enough: int, actions: list[Action]
) -> State:
    """Give a sample of the idle clients a task, and wait for them together."""
    idle = tasks.idle(state, now)
    if len(idle) < enough or tasks.at_work(state):
        return state
    kind: Kind = "evaluate" if state.ending else "train"
    number, size = state.version + 1, max(enough, round(settings.fraction * len(idle)))
    # Seeded by the state, so that a run can be told again; a sample that failed is not drawn again.
    drawn = random.Random(f"{number}/{state.waves}").sample(idle, len(idle))  # noqa: S311
    drawn.sort(key=lambda node: not state.members[node].drifted)
    nodes, wave = sorted(drawn[:size]), state.waves + 1
    state = tasks.give(state, kind, nodes, now, settings, wave, actions)
    opened = Round(kind, number, wave, now, len(nodes), frozenset(nodes))
    return replace(state, waves=wave, round=opened, waiting_since=None, failed={})


def _close(
    state: State, current: Round, now: float, settings: FederationSettings, actions: list[Action]
) -> State:
    enough = len(current.answered) >= _quorum(current.sampled, settings)
    due = now >= current.opened + settings.deadline_s
    if enough and (due or not current.awaited):
        for node in sorted(current.awaited):
            state = members.no_longer_awaited(state, node, "no answer before the deadline", now)
        closed = replace(state, round=None, waiting_since=None)
        if current.kind == "train":
            return _fold(closed, settings, actions)
        actions.append(EvaluationDone(tuple(sorted(current.answered))))
        return _stop(closed, state.ending, actions)
    if not current.awaited:
        actions.append(AbandonRound(current.number, state.failed))
        lost = [held for held in state.buffer if held.wave == current.wave]
        actions.extend(DropUpdate(held.number, held.node, "its round failed") for held in lost)
        kept = tuple(held for held in state.buffer if held.wave != current.wave)
        return replace(
            state, round=None, waiting_since=now, buffer=kept, failed={}, not_before=now + ROUND_PAUSE_S
        )
    if not enough and now >= current.opened + settings.wait_s:
        return _stop(state, f"gave up waiting: {waiting_for(state, now, settings)}", actions)
    return state


def _quorum(clients: int, settings: FederationSettings) -> int:
    # Less a hair, since 0.28 * 25 is a little more than 7.
    return max(1, math.ceil(settings.quorum * clients - 1e-9))


def _fold(state: State, settings: FederationSettings, actions: list[Action]) -> State:
    """Order all updates that are held to be folded, oldest first."""
    shares = []
    for held in sorted(state.buffer, key=lambda held: held.number):
        behind = state.version - held.version
        shares.append(UpdateShare(held.number, held.node, behind, tasks.discount(behind, settings)))
    actions.append(Aggregate(tuple(shares), state.failed))
    return replace(state, buffer=(), folding=True)


def _stop(state: State, reason: str, actions: list[Action]) -> State:
    actions.append(Stop(reason))
    return replace(state, round=None, stopped=reason)
