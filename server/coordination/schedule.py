"""Decides what follows: rounds, aggregations, tasks for idle clients, the end of tasks and of the run."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from common.settings import FederationSettings
from server.coordination import clients
from server.coordination.actions import (
    AbandonRound,
    Aggregate,
    CreateFirstVersion,
    DropUpdate,
    EvaluationDone,
    RequestDescription,
    SendTasks,
    Step,
    Stop,
    TaskOrder,
    UpdateShare,
)
from server.coordination.state import (
    Kind,
    NodeId,
    PendingTask,
    Round,
    State,
    TaskDuration,
    busy_nodes,
    idle_nodes,
    is_new,
    progress_of,
    ready_nodes,
)
from server.coordination.waiting import waiting_for

ROUND_PAUSE_S = 1.0
"""Wait after a round that failed, so that clients with problems are not flooded with tasks."""

OVERDUE_CHECK_S = 30.0
"""Time between two description requests to a client whose task is overdue."""

MIN_TIMEOUT_S = 5.0
"""Lower bound of a client's own timeout."""

TOO_LATE = "it arrived after the last aggregation"


def advance(state: State, step: Step) -> State:
    """Take every step that is possible now."""
    settings = step.settings
    if state.aggregating:
        return state
    if state.round is not None:
        return _close_round(state, state.round, step)
    if settings.max_rounds is not None:
        if state.has_converged(settings.patience):
            state = replace(state, ending=f"converged: no improvement in {settings.patience} rounds")
        elif state.version >= settings.max_rounds:
            state = replace(state, ending=f"{settings.max_rounds} rounds done")
    if state.ending:
        step.actions.extend(DropUpdate(u.number, u.node, TOO_LATE) for u in state.buffer)
        state = replace(state, buffer=())
    if step.now < state.next_version_at and not state.ending and not _pause_is_over(state, step):
        return state
    if state.waiting_since is None:
        state = replace(state, waiting_since=step.now)
    started = state.version > 0 or any(client.trained_version >= 0 for client in state.clients.values())
    min_clients = settings.min_clients
    if started:  # the fleet does not wait for quarantined clients
        absent = clients.quarantined(state, step.now)
        min_clients = 1 if settings.mode == "asynchronous" else max(1, min_clients - absent)
    if state.features is None and len(ready_nodes(state)) >= min_clients:
        state = clients.choose_features(state, step)
    if state.features is not None and step.now >= state.next_round_at:
        if settings.mode == "asynchronous" and not state.ending:
            state = _aggregate_or_assign(state, min_clients, step)
        else:
            state = _open_round(state, min_clients, step)
    since = state.waiting_since
    idle = not state.aggregating and state.round is None
    ends = settings.max_rounds is not None
    if ends and idle and since is not None and step.now >= since + settings.wait_s:
        return _stop(state, f"gave up waiting: {waiting_for(state, step.now, settings)}", step)
    return state


def _pause_is_over(state: State, step: Step) -> bool:
    """Return whether a client ends the pause of a converged federation."""
    converged = state.has_converged(step.settings.patience)
    return converged and any(_is_urgent(state, node) for node in idle_nodes(state, step.now))


def _aggregate_or_assign(state: State, min_clients: int, step: Step) -> State:
    """In asynchronous mode, aggregate a full buffer; else give idle clients the newest version."""
    settings = step.settings
    if _buffer_is_full(state, settings):
        return _aggregate(state, step)
    idle = idle_nodes(state, step.now)
    if len(state.buffer) >= settings.buffer:  # while the first version waits for its quorum
        buffered = {update.node for update in state.buffer}
        idle = [node for node in idle if node not in buffered]
    if not idle or len(ready_nodes(state)) < min_clients:
        return state
    idle.sort(key=lambda n: (not state.clients[n].drifted, state.clients[n].last_task, n))
    free = len(idle) if settings.in_flight is None else settings.in_flight - len(busy_nodes(state))
    nodes = idle[: max(0, free)]
    return assign(state, "train", nodes, 0, step) if nodes else state


def _buffer_is_full(state: State, settings: FederationSettings) -> bool:
    if len(state.buffer) < settings.buffer:
        return False
    if state.version:
        return True
    # A quorum makes the first version, so that the norm gate has norms to compare and no client dominates.
    nodes = {update.node for update in state.buffer}
    others_busy = any(node not in nodes for node in busy_nodes(state))
    return not others_busy or len(nodes) >= _quorum(len(ready_nodes(state)), settings)


def _open_round(state: State, min_clients: int, step: Step) -> State:
    """Give a sample of the idle clients a task each."""
    idle = idle_nodes(state, step.now)
    if len(idle) < min_clients or busy_nodes(state):
        return state
    kind: Kind = "evaluate" if state.ending else "train"
    number, size = state.version + 1, max(min_clients, round(step.settings.fraction * len(idle)))
    # The seed comes from the state, so that a run is reproducible; a failed round draws another sample.
    sample = random.Random(f"{number}/{state.last_round_id}").sample(idle, len(idle))  # noqa: S311
    sample.sort(key=lambda node: not _is_urgent(state, node))
    nodes, round_id = sorted(sample[:size]), state.last_round_id + 1
    state = assign(state, kind, nodes, round_id, step)
    opened = Round(kind, number, round_id, step.now, len(nodes), frozenset(nodes))
    return replace(state, last_round_id=round_id, round=opened, waiting_since=None, failures={})


def _is_urgent(state: State, node: NodeId) -> bool:
    """Return whether a client ends a pause: its data has drifted or doubled, or it has had no task yet."""
    client = state.clients[node]
    return (
        client.drifted or client.rows_have_doubled or (client.trained_version < 0 and is_new(state, client))
    )


def _close_round(state: State, current: Round, step: Step) -> State:
    """Close the round if all have answered, or a quorum at the deadline; give it up if it cannot succeed."""
    settings = step.settings
    quorum = len(current.answered) >= _quorum(current.sampled, settings)
    overdue = step.now >= current.opened_at + settings.deadline_s
    if quorum and (overdue or not current.awaited):
        for node in sorted(current.awaited):
            state = clients.fail_task(state, node, "no reply before the deadline", step.now)
        closed = replace(state, round=None, waiting_since=None)
        if current.kind == "train":
            return _aggregate(closed, step)
        step.actions.append(EvaluationDone(tuple(sorted(current.answered))))
        return _stop(closed, state.ending, step)
    given_up = not quorum and step.now >= current.opened_at + settings.wait_s
    if given_up and current.awaited:
        if settings.max_rounds is not None:
            return _stop(state, f"gave up waiting: {waiting_for(state, step.now, settings)}", step)
        for node in sorted(current.awaited):
            state = clients.fail_task(state, node, f"no reply in {settings.wait_s:.0f} s", step.now)
    return _abandoned(state, current, step) if given_up or not current.awaited else state


def _abandoned(state: State, current: Round, step: Step) -> State:
    """Give up a round; nothing of it is used."""
    step.actions.append(AbandonRound(current.number, tuple(state.failures.values())))
    lost = [update for update in state.buffer if update.round_id == current.round_id]
    step.actions.extend(DropUpdate(u.number, u.node, "its round failed") for u in lost)
    return replace(
        state, round=None, waiting_since=step.now, failures={}, next_round_at=step.now + ROUND_PAUSE_S,
        buffer=tuple(update for update in state.buffer if update.round_id != current.round_id),
    )  # fmt: skip


def _quorum(sampled: int, settings: FederationSettings) -> int:
    # The tolerance is for products such as 0.28 * 25, which is slightly more than 7.
    return max(1, math.ceil(settings.quorum * sampled - 1e-9))


def _aggregate(state: State, step: Step) -> State:
    """Order the aggregation of all buffered updates, oldest first."""
    shares = []
    for update in sorted(state.buffer, key=lambda update: update.number):
        staleness = state.version - update.version
        weight = discount(staleness, step.settings)
        shares.append(UpdateShare(update.number, update.node, staleness, weight))
    step.actions.append(Aggregate(tuple(shares), tuple(state.failures.values())))
    return replace(state, buffer=(), aggregating=True)


def assign(state: State, kind: Kind, nodes: Sequence[NodeId], round_id: int, step: Step) -> State:
    """Give the newest version to idle clients.

    Args:
        state: The state, with its features chosen.
        kind: What the clients do with the version.
        nodes: Idle nodes.
        round_id: The round that the tasks belong to, which has one deadline; 0: each has its own.
        step: Gets the actions.
    """
    if not state.initialised:
        assert state.features is not None  # noqa: S101  they are chosen before the first task
        ready = tuple(ready_nodes(state))
        step.actions.append(CreateFirstVersion(state.version, state.features, ready, progress_of(state)))
        state = replace(state, initialised=True)
    clients, tasks, orders, number = dict(state.clients), dict(state.tasks), [], state.last_number
    for node in nodes:
        number += 1
        client = clients[node]
        repeats = client.repeats + 1 if client.trained_version == state.version else 0
        if kind == "train":
            if client.rows_have_doubled:  # errors on the fewer rows do not compare with those to come
                state = replace(state, best_error=None, rounds_without_improvement=0)
            rows = client.description.rows if client.description is not None else 0
            clients[node] = replace(
                client, trained_version=state.version, trained_rows=rows, repeats=repeats, last_task=number
            )
        if round_id:
            timeout = step.settings.deadline_s
        else:
            timeout = timeout_s(state.durations.get(client.name), step.settings)
        tasks[node] = PendingTask(
            number, kind, client.name, state.version, step.now, step.now + timeout, round_id
        )  # fmt: skip
        orders.append(TaskOrder(node, number, repeats if kind == "train" else 0))
    step.actions.append(SendTasks(kind, tuple(orders)))
    return replace(state, clients=clients, tasks=tasks, last_number=number)


def expire(state: State, step: Step) -> State:
    """Fail overdue tasks outside rounds, and ask the clients of overdue tasks to describe themselves."""
    for node, task in state.tasks.items():
        if task.awaited and not task.round_id and step.now >= task.due_at:
            late = f"{task.client}: no reply in {step.now - task.sent_at:.0f} s"
            state = clients.fail_task(state, node, late, step.now)
    for node, task in state.tasks.items():
        client = state.clients.get(node)
        overdue = not task.awaited or step.now >= task.due_at
        if overdue and client is not None and client.status == "ready" and step.now >= task.check_at:
            number = state.last_number + 1
            checked = {**state.tasks, node: replace(task, check_at=step.now + OVERDUE_CHECK_S)}
            state = replace(state, last_number=number, tasks=checked)
            step.actions.append(RequestDescription(node, number))
    return state


def timeout_s(duration: TaskDuration | None, settings: FederationSettings) -> float:
    """Return how long a client's task may take: by its earlier tasks, or `deadline_s` without any.

    Source: RFC 6298, the retransmission timer of TCP.
    """
    if duration is None:
        return settings.deadline_s
    return min(max(duration.mean_s + 4 * duration.deviation_s, MIN_TIMEOUT_S), settings.deadline_s)


def _stop(state: State, reason: str, step: Step) -> State:
    step.actions.append(Stop(reason))
    return replace(state, round=None, stopped=reason)


def discount(staleness: int, settings: FederationSettings) -> float:
    """Return the factor for an update of this staleness, in versions; 1 for an update of the newest version.

    Source: Xie et al. 2019 (FedAsync), section 5.2; Nguyen et al. 2022 (FedBuff) use the square root.

    >>> [round(discount(s, FederationSettings()), 2) for s in (0, 1, 3, 8)]
    [1.0, 0.71, 0.5, 0.33]
    """
    power, free = settings.staleness_power, settings.staleness_free
    match settings.staleness:
        case "constant":
            return 1.0
        case "polynomial":
            return float((1 + staleness) ** -power)
        case "hinge":
            return 1.0 if staleness <= free else 1 / (1 + power * (staleness - free))
