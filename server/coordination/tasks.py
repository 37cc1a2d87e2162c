"""Tasks in flight: who has one, how long it may take, and how much a late update counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.settings import FederationSettings
from server.coordination.actions import CreateFirstVersion, RequestDescription, SendTasks, Step, TaskOrder
from server.coordination.progress import progress_of
from server.coordination.state import ConnectedClient, Failure, Kind, NodeId, PendingTask, State, TaskDuration

MIN_TIMEOUT_S = 5.0
"""Lower bound of a client's own timeout."""

OVERDUE_CHECK_S = 30.0
"""Time between two description requests to a client whose task is overdue."""

MAX_GONE = 1000
"""Most tasks of disconnected nodes that are kept: clients that crash repeatedly must not fill memory."""

MAX_DURATIONS = 10_000
"""Beyond this number, and the connected clients, durations of disconnected clients are dropped."""


def ready_nodes(state: State) -> list[NodeId]:
    """Return the nodes whose clients can take part."""
    return sorted(node for node, client in state.clients.items() if client.status == "ready")


def ready_names(state: State) -> set[str]:
    """Return the names of the clients that can take part."""
    return {client.name for client in state.clients.values() if client.status == "ready"}


def idle_nodes(state: State, now: float) -> list[NodeId]:
    """Return the nodes that can be given a task now."""
    return [n for n in ready_nodes(state) if n not in state.tasks and now >= state.clients[n].resume_at]


def busy_nodes(state: State, kind: Kind = "train") -> list[NodeId]:
    """Return the nodes whose reply to a task of this kind is awaited."""
    return sorted(node for node, task in state.tasks.items() if task.awaited and task.kind == kind)


def client_name(state: State, node: NodeId) -> str:
    """Return the name of a node's client, or the node's number where the name is unknown."""
    client, task = state.clients.get(node), state.tasks.get(node)
    return (client.name if client else "") or (task.client if task else "") or str(node)


def is_new(state: State, client: ConnectedClient) -> bool:
    """Return whether the federation has versions, but never had an update of this client."""
    return state.version > 0 and client.name not in state.durations


def with_client(state: State, node: NodeId, client: ConnectedClient) -> State:
    """Return the state with this client on the node."""
    return replace(state, clients={**state.clients, node: client})


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
        step.actions.append(CreateFirstVersion(state.features, ready, progress_of(state)))
        state = replace(state, initialised=True)
    clients, tasks, orders, number = dict(state.clients), dict(state.tasks), [], state.last_number
    for node in nodes:
        number += 1
        client = clients[node]
        repeats = client.repeats + 1 if client.trained_version == state.version else 0
        if kind == "train":
            clients[node] = replace(
                client, trained_version=state.version, repeats=repeats, last_task=number
            )  # fmt: skip
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


def without_task(state: State, node: NodeId) -> State:
    """Return the state in which the node has no task."""
    return replace(state, tasks={n: task for n, task in state.tasks.items() if n != node})


def stop_awaiting(state: State, node: NodeId, check_at: float = 0.0) -> State:
    """Return the state in which nothing waits for the node's task; a late update can still be used."""
    task = state.tasks.get(node)
    if task is None:
        return state
    if node not in state.clients and task.kind == "evaluate":
        return without_task(state, node)
    return replace(state, tasks={**state.tasks, node: replace(task, awaited=False, check_at=check_at)})


def fail_task(state: State, node: NodeId, reason: str, check_at: float = 0.0) -> State:
    """Return the state in which the node's task counts as failed, in its round too.

    Args:
        state: The state; it stays as it is if nothing waits for a task of the node.
        node: The node.
        reason: Why the task failed.
        check_at: When to ask the node whether it still has the task.
    """
    task = state.tasks.get(node)
    if task is None or not task.awaited:
        return state
    failures = {**state.failures, node: Failure(client_name(state, node), reason)}
    state = stop_awaiting(replace(state, failures=failures), node, check_at)
    if state.round is None or node not in state.round.awaited:
        return state
    return replace(state, round=replace(state.round, awaited=state.round.awaited - {node}))


def expire(state: State, step: Step) -> State:
    """Fail overdue tasks outside of rounds, and ask the clients of overdue tasks whether they have them."""
    for node, task in state.tasks.items():
        if task.awaited and not task.round_id and step.now >= task.due_at:
            late = f"{task.client}: no reply in {step.now - task.sent_at:.0f} s"
            state = fail_task(state, node, late, step.now)
    for node, task in state.tasks.items():
        client = state.clients.get(node)
        overdue = not task.awaited or step.now >= task.due_at
        if overdue and client is not None and client.status == "ready" and step.now >= task.check_at:
            number = state.last_number + 1
            checked = {**state.tasks, node: replace(task, check_at=step.now + OVERDUE_CHECK_S)}
            state = replace(state, last_number=number, tasks=checked)
            step.actions.append(RequestDescription(node, number))
    return state


def pruned(state: State, settings: FederationSettings) -> State:
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


def timeout_s(duration: TaskDuration | None, settings: FederationSettings) -> float:
    """Return how long a client's task may take: by its earlier tasks, or `deadline_s` without any.

    Source: RFC 6298, the retransmission timer of TCP.
    """
    if duration is None:
        return settings.deadline_s
    return min(max(duration.mean_s + 4 * duration.deviation_s, MIN_TIMEOUT_S), settings.deadline_s)


def with_sample(duration: TaskDuration | None, took_s: float) -> TaskDuration:
    """Return the smoothed duration with one more task in it. Source: RFC 6298, section 2."""
    if duration is None:
        return TaskDuration(took_s, took_s / 2)
    return TaskDuration(
        mean_s=duration.mean_s + (took_s - duration.mean_s) / 8,
        deviation_s=duration.deviation_s + (abs(took_s - duration.mean_s) - duration.deviation_s) / 4,
    )


def discount(staleness: int, settings: FederationSettings) -> float:
    """Return the factor for an update that is this many versions behind; 1 if it is of the newest.

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
