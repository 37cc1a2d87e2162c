"""What a run waits for, in one line for people."""

from __future__ import annotations

from common.settings import FederationSettings
from server.coordination.state import State
from server.coordination.tasks import at_work, idle, name_of, ready


def waiting_for(state: State, now: float, settings: FederationSettings) -> str:
    """What the run is waiting for and for how long; empty if for nothing."""
    if state.stopped is not None:
        return ""
    if state.round is not None:
        current = state.round
        names = ", ".join(sorted(name_of(state, node) for node in current.awaited))
        return (
            f"{current.kind} round {current.number}: {len(current.answered)} of {current.sampled} answered "
            f"after {now - current.opened:.0f} s; awaited: {names}"
        )
    if state.waiting_since is None:
        return ""
    waited = f"after {now - state.waiting_since:.0f} s"
    late = [name_of(state, n) for n in ready(state) if n in state.tasks and not state.tasks[n].awaited]
    resting = [name_of(state, n) for n in ready(state) if now < state.members[n].rest_until]
    refused = [f"{m.name or node}: {m.reason}" for node, m in state.members.items() if m.reason]
    busy = [name_of(state, node) for node in at_work(state)]
    if settings.mode == "asynchronous" and not state.ending and (busy or state.buffer):
        first = (
            f"version {state.version + 1}: {len(state.buffer)} of {settings.buffer} updates held {waited}; "
            f"at work: {', '.join(busy) or 'nobody'}"
        )
    else:
        first = f"{len(idle(state, now))} of {settings.min_clients} clients ready {waited}"
        if busy:
            first += f"; at work: {', '.join(busy)}"
    parts = [
        first,
        f"still at an earlier task: {', '.join(late)}" if late else "",
        f"resting after a failure: {', '.join(resting)}" if resting else "",
        f"refused: {'; '.join(refused)}" if refused else "",
    ]
    return "; ".join(part for part in parts if part)
