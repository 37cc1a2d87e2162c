"""The coordinator: decides who trains, when updates become a version, and when the run ends.

`step(state, event, now, settings)` returns the next state and the actions that follow. It has no clock, no
socket and no Flower: time and everything that happens are arguments, so that every race is a unit test.

Both modes use the same parts: tasks in flight, and a buffer of admitted updates. Synchronous: a round gives
tasks to a sample of clients, and aggregates when all have answered, or a quorum at the deadline.
Asynchronous: an idle client gets a task at once, and a full buffer is aggregated. An aggregation uses the
whole buffer, each update discounted by its staleness, so an update that was late for its round is used in
the next. Sources: McMahan et al. 2017 (FedAvg); Nguyen et al. 2022 (FedBuff); Xie et al. 2019 (FedAsync).
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from common.settings import FederationSettings
from server.coordination import clients
from server.coordination.actions import Action, DropUpdate, Publish, Step
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
from server.coordination.schedule import ROUND_PAUSE_S, TOO_LATE, advance, expire
from server.coordination.state import (
    BufferedUpdate,
    NodeId,
    PendingTask,
    State,
    TaskDuration,
    is_new,
    progress_of,
    ready_names,
    ready_nodes,
    with_client,
)

UNREADABLE = "with what it sent, no version can be read"
"""The fault of a client whose contribution was left out of a version."""

FAILURE_PAUSE_S = 5.0
"""Asynchronous: wait before a client whose task failed is given another."""

MAX_GONE = 1000
"""Most tasks of disconnected nodes that are kept: clients that crash repeatedly must not fill memory."""

MAX_DURATIONS = 10_000
"""Beyond this number, and the connected clients, durations of disconnected clients are dropped."""


def step(state: State, event: Event, now: float, settings: FederationSettings) -> tuple[State, list[Action]]:
    """Return the next state, and the actions to take in order.

    `Aggregate` must be answered with `Aggregated` or `AggregationFailed` before any other event.

    Args:
        state: The state that the last step returned.
        event: What happened.
        now: Seconds on a monotonic clock.
        settings: The settings of the federation.
    """
    if state.stopped is not None:
        return state, []
    context = Step(now, settings)
    state = _pruned(_handled(state, event, context), settings)
    state = advance(expire(state, context), context)
    return state, context.actions


def _handled(state: State, event: Event, step: Step) -> State:
    """Return the state after the event alone, before anything is scheduled."""
    match event:
        case NodesConnected():
            return clients.nodes_connected(state, event, step)
        case Described():
            return clients.described(state, event, step)
        case DescriptionFailed():
            return clients.description_failed(state, event, step)
        case ReplyAdmitted():
            return _reply_admitted(state, event, step)
        case TaskFailed():
            return _task_failed(state, event, step)
        case Aggregated():
            return _aggregated(state, event, step)
        case AggregationFailed():
            return replace(state, aggregating=False, next_round_at=step.now + ROUND_PAUSE_S)
        case Tick():
            return clients.request_descriptions(state, step)


def _reply_admitted(state: State, event: ReplyAdmitted, step: Step) -> State:
    task = state.tasks.get(event.node)
    if task is None or task.number != event.number:
        return state
    state = _counted(clients.without_task(state, event.node), event.node, task)
    state = clients.without_faults(state, task.client)
    client = state.clients.get(event.node)
    if client is not None:
        client = replace(client, drifted=event.drifted, ask_at=step.now + clients.REFRESH_S)
        state = with_client(state, event.node, client)
    if task.kind == "evaluate":
        return state
    if client is not None and is_new(state, client):
        # The federation's error now includes that of other data, so earlier ones do not compare.
        state = replace(state, best_error=None, rounds_without_improvement=0)
    duration = _with_sample(state.durations.get(task.client), step.now - task.sent_at)
    state = replace(state, durations={**state.durations, task.client: duration})
    staleness = state.version - task.version
    if state.ending:
        step.actions.append(DropUpdate(event.number, event.node, TOO_LATE))
        return state
    if task.version < state.first_version:
        step.actions.append(DropUpdate(event.number, event.node, clients.OTHER_FEATURES))
        return state
    if staleness > step.settings.staleness_limit:
        step.actions.append(DropUpdate(event.number, event.node, f"it is {staleness} versions behind"))
        return state
    update = BufferedUpdate(event.number, event.node, task.version, task.round_id)
    waiting_since = step.now if step.settings.mode == "asynchronous" else state.waiting_since
    return replace(state, buffer=(*state.buffer, update), waiting_since=waiting_since)


def _counted(state: State, node: NodeId, task: PendingTask) -> State:
    """Return the state in which the open round has the reply, if the task is of that round."""
    current = state.round
    if current is None or task.round_id != current.round_id:
        return state
    state = replace(state, failures={n: f for n, f in state.failures.items() if n != node})
    answered = current.answered | {node}
    return replace(state, round=replace(current, awaited=current.awaited - {node}, answered=answered))


def _task_failed(state: State, event: TaskFailed, step: Step) -> State:
    task, client = state.tasks.get(event.node), state.clients.get(event.node)
    if task is None or task.number != event.number:
        return state
    state = clients.without_task(clients.fail_task(state, event.node, event.reason), event.node)
    if client is not None and not task.round_id:
        client = replace(client, resume_at=step.now + FAILURE_PAUSE_S)
        state = with_client(state, event.node, client)
    return clients.count_fault(state, event.node, event.reason, step) if event.fault else state


def _aggregated(state: State, event: Aggregated, step: Step) -> State:
    """Return the state with the next version; the first action publishes it."""
    settings = step.settings
    state = replace(state, version=state.version + 1, aggregating=False, failures={}, waiting_since=None)
    state = _checked_for_improvement(state, event, settings)
    state = replace(state, settled=state.settled or state.has_converged(settings.patience))
    state = replace(state, next_version_at=step.now + _pause_s(state, settings))
    step.actions.append(Publish(state.version, progress_of(state)))
    for node in [n for n, client in state.clients.items() if client.name in event.at_fault]:
        state = clients.count_fault(state, node, UNREADABLE, step)
    return state


def _pause_s(state: State, settings: FederationSettings) -> float:
    """Return the time between the version that was just made and work on the next one."""
    pause_s = settings.interval_s
    if state.has_converged(settings.patience):
        pause_s = max(pause_s, settings.converged_interval_s)
    if state.settled and settings.max_rounds is None:
        names = ready_names(state)
        usual_s = [duration.mean_s for name, duration in state.durations.items() if name in names]
        pause_s = max(pause_s, median(usual_s or [0.0]) * (1 / settings.training_share - 1))
    return pause_s


def _checked_for_improvement(state: State, event: Aggregated, settings: FederationSettings) -> State:
    updates = state.updates_since_check + event.updates
    if settings.mode == "asynchronous" and updates < len(ready_nodes(state)) and not event.drifted:
        # As many updates as clients are needed: the error of a few clients is not the federation's.
        return replace(state, updates_since_check=updates)
    best = state.best_error
    improved = event.drifted or best is None or event.error < best * (1 - settings.min_improvement)
    return replace(
        state,
        updates_since_check=0,
        best_error=event.error if improved else best,
        rounds_without_improvement=0 if improved else state.rounds_without_improvement + 1,
    )


def _with_sample(duration: TaskDuration | None, took_s: float) -> TaskDuration:
    """Return the smoothed duration with one more task in it. Source: RFC 6298, section 2."""
    if duration is None:
        return TaskDuration(took_s, took_s / 2)
    return TaskDuration(
        mean_s=duration.mean_s + (took_s - duration.mean_s) / 8,
        deviation_s=duration.deviation_s + (abs(took_s - duration.mean_s) - duration.deviation_s) / 4,
    )


def _pruned(state: State, settings: FederationSettings) -> State:
    """Return the state without tasks of disconnected nodes that are too old, and within its size limits."""
    oldest = state.version - settings.staleness_limit
    gone = [node for node in state.tasks if node not in state.clients]
    useless = {node for node in gone if state.tasks[node].version < oldest} | set(gone[:-MAX_GONE])
    if useless:
        state = replace(state, tasks={n: task for n, task in state.tasks.items() if n not in useless})
    if len(state.failures) > MAX_GONE:
        state = replace(state, failures=dict(list(state.failures.items())[-MAX_GONE:]))
    if len(state.durations) > MAX_DURATIONS + len(state.clients):
        names = {client.name for client in state.clients.values()}
        state = replace(state, durations={n: d for n, d in state.durations.items() if n in names})
    return state
