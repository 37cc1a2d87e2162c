"""The run as `/status` shows it: a file that the ServerApp writes and the server process reads.

A file, because the ServerApp may be dead when somebody asks how it is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.settings import FederationSettings
from server.coordination.state import Member, PendingTask, State
from server.coordination.waiting import waiting_for
from server.federation.client_records import ClientRecords

log = logging.getLogger(__name__)


def of(state: State, fleet: ClientRecords, now: float, settings: FederationSettings) -> dict[str, Any]:
    """The run at one moment, as JSON values.

    Args:
        state: The coordinator's.
        fleet: The clients' records.
        now: On the coordinator's clock.
        settings: The rules of the federation.
    """
    nodes = {member.name: node for node, member in state.members.items() if member.name}
    names = sorted(nodes.keys() | fleet.records.keys())
    saved = fleet.saved()
    return {
        "at": time.time(),
        "mode": settings.mode,
        "strategy": settings.strategy,
        "version": state.version,
        "error": fleet.error(nodes.keys()),
        "best_error": state.best_error,
        "held": len(state.buffer),
        "buffer": settings.buffer if settings.mode == "asynchronous" else None,
        "waiting": waiting_for(state, now, settings),
        "ending": state.ending,
        "stopped": state.stopped,
        "clients": {
            name: {
                **_work(state, nodes.get(name), now),
                **saved.get(name, {}),
                "behind": _behind(state, saved.get(name)),
                "mean_s": state.paces[name].mean_s if name in state.paces else None,
            }
            for name in names
        },
    }


def write(path: Path, shown: Mapping[str, Any]) -> None:
    """Put the view on disk for the server process: whole or not at all, but not proof against a power cut."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(shown))
        partial.replace(path)
    except OSError as error:  # a full disk must not end the run
        log.error("state not shown file=%s reason=%s", path, error)


def read(path: Path) -> dict[str, Any] | None:
    """What was written last; None if nothing was, or it cannot be read."""
    try:
        shown = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return shown if isinstance(shown, dict) else None


def saved_clients(path: Path) -> dict[str, dict[str, Any]]:
    """The clients' records of an earlier run."""
    clients = (read(path) or {}).get("clients", {})
    return clients if isinstance(clients, dict) else {}


def _work(state: State, node: int | None, now: float) -> dict[str, Any]:
    """What a client is doing: `state` is one word, `why` says more where there is more to say."""
    member, work = (state.members.get(node), state.tasks.get(node)) if node is not None else (None, None)
    found: dict[str, Any] = {"node": str(node) if node is not None else None}
    return found | {"state": _word(state, node, member, work, now), "why": _why(member, work, now)}


def _word(state: State, node: int | None, member: Member | None, work: PendingTask | None, now: float) -> str:
    if member is None:
        return "gone"
    if member.status != "ready":
        return member.status
    if work is not None:
        return "working" if work.awaited else "late"
    return "resting" if now < member.rest_until else "idle"


def _why(member: Member | None, work: PendingTask | None, now: float) -> str:
    if member is not None and member.reason:
        return member.reason
    if member is None or work is None:
        return ""
    doing = "trains" if work.kind == "train" else "measures"
    left_s = work.due - now
    until = f"due in {left_s:.0f} s" if left_s >= 0 else f"{-left_s:.0f} s past its time"
    return f"{doing} version {work.version} for {now - work.sent:.0f} s, {until}"


def _behind(state: State, saved: Mapping[str, Any] | None) -> int | None:
    version = saved.get("version") if saved else None
    return None if version is None else state.version - version
