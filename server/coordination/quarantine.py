"""Quarantine: a client whose answers cannot be used, several in a row, gets no tasks for a while.

An answer that cannot be used costs the server work and the fleet a place in a round. A client that sends one
by accident is asked again; one that goes on is left alone for `QUARANTINE_S`, then tried again.
"""

from __future__ import annotations

from dataclasses import replace

from server.coordination.state import Faults, State

MAX_FAULTS = 3
"""Faults in a row after which a client is quarantined."""

QUARANTINE_S = 600.0
"""Length of a quarantine."""

MAX_REMEMBERED = 1000
"""Most clients whose faults are remembered."""


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
    """Return the state after a sound answer of a client: earlier faults no longer count."""
    if client not in state.faults:
        return state
    return replace(state, faults={name: f for name, f in state.faults.items() if name != client})


def quarantine_of(state: State, client: str, now: float) -> tuple[float, str] | None:
    """Return when a client's quarantine ends, and why it is quarantined; None if it is not."""
    faults = state.faults.get(client)
    if faults is None or now >= faults.until:
        return None
    why = (
        f"quarantined for {QUARANTINE_S:.0f} s after {MAX_FAULTS} answers that could not be used, the last: "
    )
    return faults.until, why + faults.reason


def quarantined(state: State, now: float) -> int:
    """Return the number of connected clients that are quarantined."""
    return sum(quarantine_of(state, client.name, now) is not None for client in state.clients.values())
