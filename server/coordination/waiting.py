"""Describes in one line what a run waits for."""

from __future__ import annotations

from collections.abc import Collection

from common.settings import FederationSettings
from server.coordination.state import State, busy_nodes, client_name, idle_nodes, ready_nodes


def waiting_for(state: State, now: float, settings: FederationSettings, unseen: Collection[str] = ()) -> str:
    """Return what the run waits for and for how long; empty if for nothing.

    Args:
        state: The coordinator's.
        now: Seconds on a monotonic clock.
        settings: The settings of the federation.
        unseen: Names of registered clients that have never connected.
    """
    if state.stopped is not None:
        return ""
    if state.round is not None:
        current = state.round
        names = ", ".join(sorted(client_name(state, node) for node in current.awaited))
        kind = "training" if current.kind == "train" else "evaluation"
        return (
            f"{kind} round {current.number}: {len(current.answered)} of {current.sampled} answered "
            f"after {now - current.opened_at:.0f} s; awaited: {names}"
        )
    if state.waiting_since is None:
        return _pause(state, now, settings)
    waited = f"after {now - state.waiting_since:.0f} s"
    ready = ready_nodes(state)
    late = [client_name(state, n) for n in ready if n in state.tasks and not state.tasks[n].awaited]
    resting = [client_name(state, n) for n in ready if now < state.clients[n].resume_at]
    refused = [f"{c.name or node}: {c.reason}" for node, c in state.clients.items() if c.reason]
    busy = [client_name(state, node) for node in busy_nodes(state)]
    if settings.mode == "asynchronous" and not state.ending and (busy or state.buffer):
        first = (
            f"version {state.version + 1}: {len(state.buffer)} of {settings.buffer} updates received "
            f"{waited}; working: {', '.join(busy) or 'none'}"
        )
    else:
        first = f"{len(idle_nodes(state, now))} of {settings.min_clients} clients ready {waited}"
        if busy:
            first += f"; working: {', '.join(busy)}"
    learning = [f"{c.name} {c.learning}" for c in state.clients.values() if c.learning is not None]
    missing = settings.min_clients - len(ready) - len(learning)
    lacks_clients = missing > 0 and not busy and not state.buffer
    parts = [
        first,
        "; ".join(learning),
        f"waiting for {missing} more {'client' if missing == 1 else 'clients'} to connect"
        if lacks_clients
        else "",
        f"registered, never connected: {', '.join(sorted(unseen))}" if lacks_clients and unseen else "",
        f"late with an earlier task: {', '.join(late)}" if late else "",
        f"resting after a failure: {', '.join(resting)}" if resting else "",
        f"refused: {'; '.join(refused)}" if refused else "",
    ]
    return "; ".join(part for part in parts if part)


def _pause(state: State, now: float, settings: FederationSettings) -> str:
    """Return when the next version follows; empty if there is no pause before it."""
    left_s = state.next_version_at - now
    if left_s <= 0:
        return ""
    if not state.has_converged(settings.patience):
        return f"the next version follows in {left_s:.0f} s"
    return (
        f"converged, no improvement in {state.rounds_without_improvement} rounds: the next version follows "
        f"in {left_s:.0f} s, or at once for a new client or one that reports drift"
    )
