"""Connected clients: who may take part, who is quarantined, and the end of tasks that bring no reply.

Quarantine: a client whose answers cannot be used, several in a row, gets no tasks for a while. An answer that
cannot be used costs the server work and the fleet a place in a round. A client that sends one by accident is
asked again; one that goes on is left alone for `QUARANTINE_S`, then tried again.
"""

from __future__ import annotations

from dataclasses import replace

from server.coordination.actions import DropUpdate, RequestDescription, Step
from server.coordination.events import Described, DescriptionFailed, NodesConnected
from server.coordination.features import Features, excess, majority_features, misfit, most_common
from server.coordination.state import (
    ConnectedClient,
    Failure,
    Faults,
    NodeId,
    State,
    client_name,
    ready_nodes,
    with_client,
)

RETRY_S = 5.0
"""Wait before the description of a refused client is requested again."""

REFRESH_S = 60.0
"""Wait before a client without work describes itself again: it may have drifted."""

REPLY_TIMEOUT_S = 30.0
"""Wait before a request without a reply is repeated, so that requests do not pile up at a busy client."""

MIN_LEARNING_S, MAX_LEARNING_S = 1.0, 30.0
"""Bounds of the wait before a client that learns describes itself again: half of the time that it needs."""

MAX_REQUESTS = 32
"""Most description requests without a reply at a time.

The first message to a client costs several HTTP requests. If hundreds of clients were asked at once, a busy
server would reply to none in time, and all would be asked again.
"""

OTHER_FEATURES = "it is of the federation's earlier features"
"""Reason for which an update is dropped after the federation has started again with other features."""

MAX_FAULTS = 3
"""Faults in a row after which a client is quarantined."""

QUARANTINED = "quarantined"
"""The first word of the reason why a quarantined client gets no tasks."""

QUARANTINE_S = 600.0
"""Length of a quarantine."""

MAX_REMEMBERED = 1000
"""Most clients whose faults are remembered."""


def nodes_connected(state: State, event: NodesConnected, step: Step) -> State:
    """Remove the clients that are gone, and request descriptions of new ones."""
    for node in sorted(state.clients.keys() - event.nodes):
        state = _removed(state, node, "disconnected")
    for node in sorted(event.nodes - state.clients.keys()):
        client = ConnectedClient("asked", step.now, first_request=state.last_number + 1)
        state = with_client(state, node, client)
    return request_descriptions(state, step)


def described(state: State, event: Described, step: Step) -> State:
    """Make a client ready, or let it learn, if its name is free and its features fit; refuse it otherwise."""
    known = state.clients.get(event.node)
    if known is None or event.number < known.first_request:
        return state
    description = event.description
    client = replace(
        known, status="ready", ask_at=step.now + REFRESH_S, description=description, reason="",
        drifted=known.drifted or description.drifted, described_at=step.now,
    )  # fmt: skip
    if event.owner not in (None, client.name):
        reason = f"it calls itself '{client.name}', but its key is registered for '{event.owner}'"
        return _refused(state, event.node, client, reason, step)
    if (held := quarantine_of(state, client.name, step.now)) is not None:
        return _refused(state, event.node, client, held[1], step, held[0])
    for node, other in state.clients.items():
        if node != event.node and other.status in ("ready", "learning") and other.name == client.name:
            if other.description is None or other.description.instance != description.instance:
                reason = f"the name '{client.name}' is in use by another connected client"
                return _refused(state, event.node, client, reason, step)
            state = _removed(state, node, "reconnected as another node")
            break
    if (surplus := excess(state, client, step.settings.max_model_mb)) is not None:
        return _refused(state, event.node, client, surplus, step)
    if state.features is not None and (difference := misfit(state.features, client)):
        refused = with_client(state, event.node, replace(client, status="refused", reason=difference))
        if (features := majority_features(refused)) is None:
            return _refused(state, event.node, client, difference, step)
        state = _restarted(refused, features, step)
    task = state.tasks.get(event.node)
    if task is not None and event.number > task.number:
        # A client handles its messages in the order in which they were sent, so the task was lost.
        state = without_task(fail_task(state, event.node, "the task never arrived"), event.node)
    if not description.can_train:
        client = _learning(state, client, step)
    return with_client(state, event.node, client)


def _learning(state: State, client: ConnectedClient, step: Step) -> ConnectedClient:
    """Return the client as one that learns, with the time of its next description."""
    assert client.description is not None  # noqa: S101  it has just described itself
    first = client.learned_from or (client.description.rows, step.now)
    client = replace(client, status="learning", learned_from=first)
    progress = client.learning
    left_s = progress.remaining_s if progress is not None else None
    wait_s = min(
        max((left_s if left_s is not None else step.now - first[1]) / 2, MIN_LEARNING_S), MAX_LEARNING_S
    )
    if client.lacks(state.version) and state.version > state.first_version and not client.delivered:
        wait_s = 0.0
    return replace(client, ask_at=step.now + wait_s)


def description_failed(state: State, event: DescriptionFailed, step: Step) -> State:
    """Refuse a client whose first description failed; quarantine one whose descriptions cannot be used."""
    client = state.clients.get(event.node)
    if client is None:
        return state
    if event.fault:
        state = count_fault(state, event.node, event.reason, step)
        client = state.clients[event.node]
    if client.status != "asked":
        return state
    refused = replace(client, status="refused", reason=event.reason, ask_at=step.now + RETRY_S)
    return with_client(state, event.node, refused)


def count_fault(state: State, node: NodeId, reason: str, step: Step) -> State:
    """Return the state after an answer that cannot be used because of the client.

    Args:
        state: The state.
        node: The node that sent the answer.
        reason: Why it cannot be used.
        step: Gets the actions.
    """
    name = client_name(state, node)
    state = with_fault(state, name, reason, step.now)
    client, held = state.clients.get(node), quarantine_of(state, name, step.now)
    if client is None or held is None:
        return state
    return _refused(fail_task(state, node, reason), node, client, held[1], step, held[0])


def with_fault(state: State, client: str, reason: str, now: float) -> State:
    """Return the state in which a client has one more fault, and is quarantined if these are too many.

    Args:
        state: The coordinator's.
        client: The client's name, or the number of its node where the name is not known.
        reason: What was wrong with its answer.
        now: Seconds on a monotonic clock.
    """
    known = state.faults.get(client, Faults())
    faults = replace(known, in_row=known.in_row + 1, reason=reason)
    if faults.in_row >= MAX_FAULTS:
        faults = replace(faults, in_row=0, until=now + QUARANTINE_S)
    others = {name: f for name, f in state.faults.items() if name != client}
    return replace(state, faults=dict([*others.items(), (client, faults)][-MAX_REMEMBERED:]))


def without_faults(state: State, client: str) -> State:
    """Return the state after a usable answer of a client: earlier faults no longer count."""
    if client not in state.faults:
        return state
    return replace(state, faults={name: f for name, f in state.faults.items() if name != client})


def quarantine_of(state: State, client: str, now: float) -> tuple[float, str] | None:
    """Return when a client's quarantine ends, and why it is quarantined; None if it is not."""
    faults = state.faults.get(client)
    if faults is None or now >= faults.until:
        return None
    why = f"{QUARANTINED} for {QUARANTINE_S:.0f} s after {MAX_FAULTS} answers that could not be used"
    return faults.until, f"{why}, the last: {faults.reason}"


def quarantined(state: State, now: float) -> int:
    """Return the number of connected clients that are quarantined."""
    return sum(quarantine_of(state, client.name, now) is not None for client in state.clients.values())


def request_descriptions(state: State, step: Step) -> State:
    """Request the descriptions that are due, a limited number at a time."""
    due = [
        node
        for node, client in state.clients.items()
        if step.now >= client.ask_at and (client.status != "ready" or node not in state.tasks)
    ]
    if due:
        pending = sum(c.status == "asked" and step.now < c.ask_at for c in state.clients.values())
        due.sort(key=lambda node: state.clients[node].ask_at)
        for node in due[: max(0, MAX_REQUESTS - pending)]:
            number = state.last_number + 1
            client = state.clients[node]
            deliver = client.lacks(state.version) and state.version > state.first_version
            step.actions.append(RequestDescription(node, number, deliver=deliver))
            client = replace(
                client, ask_at=step.now + REPLY_TIMEOUT_S,
                delivered=state.version if deliver else client.delivered,
            )  # fmt: skip
            state = with_client(replace(state, last_number=number), node, client)
    return state


def choose_features(state: State, step: Step) -> State:
    """Make the features of most ready clients the federation's; refuse the clients with others."""
    ready = {node: state.clients[node] for node in ready_nodes(state)}
    features, _ = most_common(ready.values())
    state = replace(state, features=features)
    for node, client in ready.items():
        if difference := misfit(features, client):
            state = _refused(state, node, client, difference, step)
    return state


def _restarted(state: State, features: Features, step: Step) -> State:
    """Return the state in which the federation restarts with the features of most clients.

    The numbers of versions continue, so that no client mistakes a new version for an old one. Tasks and
    updates of the versions before are of other features, and are not used. Clients that were refused
    describe themselves again, and the first version waits a little for them.
    """
    version, before = state.version + 1 if state.initialised else state.version, state.features or ()
    for update in state.buffer:
        step.actions.append(DropUpdate(update.number, update.node, OTHER_FEATURES))
    for node in state.tasks:
        state = stop_awaiting(state, node)
    state = replace(
        state, version=version, first_version=version, features=features, initialised=False,
        best_error=None, rounds_without_improvement=0, updates_since_check=0, settled=False,
        durations={}, buffer=(), failures={}, round=None, waiting_since=None,
        next_round_at=step.now + RETRY_S, next_version_at=0.0,
    )  # fmt: skip
    for node, client in state.clients.items():
        if client.status in ("ready", "learning") and (difference := misfit(features, client)):
            state = _refused(state, node, client, difference, step)
        elif client.reason and client.reason == misfit(before, client) and misfit(features, client) is None:
            asked = replace(client, status="asked", reason="", ask_at=step.now)
            state = with_client(state, node, asked)
    return state


def _removed(state: State, node: NodeId, reason: str) -> State:
    state = replace(state, clients={n: client for n, client in state.clients.items() if n != node})
    return stop_awaiting(fail_task(state, node, reason), node)


def _refused(
    state: State, node: NodeId, client: ConnectedClient, reason: str, step: Step, until: float | None = None
) -> State:
    """Return the state in which a client gets no tasks and is sent the reason, at least until `until`."""
    if state.clients[node].reason != reason:
        state = replace(state, last_number=state.last_number + 1)
        step.actions.append(RequestDescription(node, state.last_number, refused=reason))
    ask_at = step.now + RETRY_S if until is None else until
    refused = replace(client, status="refused", reason=reason, ask_at=ask_at)
    return with_client(state, node, refused)


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
