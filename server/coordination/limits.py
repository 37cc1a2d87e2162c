"""Keeps the coordinator's state within its size limits, whatever clients do."""

from __future__ import annotations

from dataclasses import replace

from common.settings import FederationSettings
from server.coordination.state import State

MAX_GONE = 1000
"""Most tasks of disconnected nodes that are kept: clients that crash repeatedly must not fill memory."""

MAX_DURATIONS = 10_000
"""Beyond this number, and the connected clients, durations of disconnected clients are dropped."""


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
