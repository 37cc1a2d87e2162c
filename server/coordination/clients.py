"""Connected clients: who they are, whether their names are unique, and whether their features fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from common.model.schema import Schema, SchemaError
from server.coordination.actions import RequestDescription, Step
from server.coordination.events import Described, DescriptionFailed, NodesConnected
from server.coordination.state import ConnectedClient, NodeId, State
from server.coordination.tasks import fail_task, ready_nodes, stop_awaiting, with_client, without_task

RETRY_S = 5.0
"""Wait before the description of a refused client is requested again."""

REFRESH_S = 60.0
"""Wait before a client without work describes itself again: it may have drifted."""

REPLY_TIMEOUT_S = 30.0
"""Wait before a request without a reply is repeated, so that requests do not pile up at a busy client."""

MAX_REQUESTS = 32
"""Most description requests without a reply at a time.

The first message to a client costs several HTTP requests. If hundreds of clients were asked at once, a busy
server would reply to none in time, and all would be asked again.
"""


def nodes_connected(state: State, event: NodesConnected, step: Step) -> State:
    """Remove the clients that are gone, and request descriptions of new ones."""
    for node in sorted(state.clients.keys() - event.nodes):
        state = _removed(state, node, "disconnected")
    for node in sorted(event.nodes - state.clients.keys()):
        client = ConnectedClient("asked", step.now, first_request=state.last_number + 1)
        state = with_client(state, node, client)
    return request_descriptions(state, step)


def described(state: State, event: Described, step: Step) -> State:
    """Make a client ready if its name is free and its features fit; refuse it otherwise."""
    known = state.clients.get(event.node)
    if known is None or event.number < known.first_request:
        return state
    description = event.description
    client = replace(
        known, status="ready", ask_at=step.now + REFRESH_S, description=description, reason="",
        drifted=known.drifted or description.drifted,
    )  # fmt: skip
    if event.owner not in (None, client.name):
        reason = f"it calls itself '{client.name}', but its key is registered for '{event.owner}'"
        return _refused(state, event.node, client, reason, step)
    for node, other in state.clients.items():
        if node != event.node and other.status == "ready" and other.name == client.name:
            if other.description is None or other.description.instance != description.instance:
                reason = f"the name '{client.name}' is in use by another connected client"
                return _refused(state, event.node, client, reason, step)
            state = _removed(state, node, "reconnected as another node")
            break
    if state.features is not None and (misfit := _misfit(state.features, client)):
        return _refused(state, event.node, client, misfit, step)
    task = state.tasks.get(event.node)
    if task is not None and event.number > task.number:
        # A client handles its messages in the order in which they were sent, so the task was lost.
        state = without_task(fail_task(state, event.node, "the task never arrived"), event.node)
    return with_client(state, event.node, client)


def description_failed(state: State, event: DescriptionFailed, step: Step) -> State:
    """Refuse a client whose first description failed."""
    client = state.clients.get(event.node)
    if client is None or client.status != "asked":
        return state
    refused = replace(client, status="refused", reason=event.reason, ask_at=step.now + RETRY_S)
    return with_client(state, event.node, refused)


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
            step.actions.append(RequestDescription(node, number))
            client = replace(state.clients[node], ask_at=step.now + REPLY_TIMEOUT_S)
            state = with_client(replace(state, last_number=number), node, client)
    return state


def choose_features(state: State, step: Step) -> State:
    """Make the features of most ready clients the federation's; refuse the clients with others."""
    ready = {node: state.clients[node] for node in ready_nodes(state)}
    votes = Counter(tuple(sorted(_features(client))) for client in ready.values())
    majority = max(votes, key=lambda names: (votes[names], names))
    features = next(f for f in map(_features, ready.values()) if tuple(sorted(f)) == majority)
    state = replace(state, features=features)
    for node, client in ready.items():
        if misfit := _misfit(features, client):
            state = _refused(state, node, client, misfit, step)
    return state


def _removed(state: State, node: NodeId, reason: str) -> State:
    state = replace(state, clients={n: client for n, client in state.clients.items() if n != node})
    return stop_awaiting(fail_task(state, node, reason), node)


def _refused(state: State, node: NodeId, client: ConnectedClient, reason: str, step: Step) -> State:
    if state.clients[node].reason != reason:
        state = replace(state, last_number=state.last_number + 1)
        step.actions.append(RequestDescription(node, state.last_number, refused=reason))
    refused = replace(client, status="refused", reason=reason, ask_at=step.now + RETRY_S)
    return with_client(state, node, refused)


def _features(client: ConnectedClient) -> tuple[str, ...]:
    return client.description.schema.features if client.description is not None else ()


def _misfit(features: tuple[str, ...], client: ConnectedClient) -> str | None:
    """Return how a client's features differ from the federation's; None if they fit."""
    try:
        Schema(features).align(_features(client))
    except SchemaError as error:
        return str(error)
    return None
