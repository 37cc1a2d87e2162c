"""The status file: the state of a run, written by the ServerApp and served by the server process.

A file, because the ServerApp may be dead when its status is requested.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from common.settings import FederationSettings
from server.coordination.state import ConnectedClient, PendingTask, State
from server.coordination.waiting import waiting_for
from server.federation.client_records import ClientRecords

log = logging.getLogger(__name__)

ENROLLED = "enrolled"
"""State of a registered client that has never connected."""


def run_status(
    state: State,
    records: ClientRecords,
    now: float,
    settings: FederationSettings,
    unseen: Collection[str] = (),
) -> dict[str, Any]:
    """Return the status of the run as JSON values.

    Args:
        state: The coordinator's.
        records: The clients' records.
        now: Time on the coordinator's clock.
        settings: The settings of the federation.
        unseen: Names of registered clients that have never connected.
    """
    nodes = {client.name: node for node, client in state.clients.items() if client.name}
    saved = records.to_json()
    return {
        "at": time.time(),
        "mode": settings.mode,
        "strategy": settings.strategy,
        "version": state.version,
        "error": records.mean_error(nodes.keys()),
        "best_error": state.best_error,
        "held": len(state.buffer),
        "buffer": settings.buffer if settings.mode == "asynchronous" else None,
        "waiting": waiting_for(state, now, settings, unseen),
        "converged": state.has_converged(settings.patience),
        "ending": state.ending,
        "stopped": state.stopped,
        "clients": {
            name: {
                **_activity(state, nodes.get(name), now),
                **saved.get(name, {}),
                "behind": _behind(state, saved.get(name)),
                "mean_s": state.durations[name].mean_s if name in state.durations else None,
            }
            for name in sorted(nodes.keys() | saved.keys())
        }
        | {name: {"state": ENROLLED, "why": "registered, never connected"} for name in sorted(unseen)},
    }


def write(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status file atomically; the write is not synced to disk.

    On a full disk the file is overwritten in place, without the clients if it is too small for them.
    """
    partial = path.with_suffix(".partial")
    content = json.dumps(status).encode()
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:  # a full disk must not end the run
        log.error("status not written file=%s reason=%s", path, error)
        trouble = {**status.get("trouble", {}), "status": str(error)}
        _write_over(path, {**status, "trouble": trouble}, {**status, "trouble": trouble, "clients": {}})


def _write_over(path: Path, *choices: Mapping[str, Any]) -> None:
    """Write the first of the choices that fits into the file's present size, which needs no space."""
    try:
        size = path.stat().st_size
        for status in choices:
            content = json.dumps(status).encode()
            if len(content) <= size:
                with path.open("r+b") as file:
                    file.write(content.ljust(size))
                return
    except OSError as error:
        log.error("status not overwritten file=%s reason=%s", path, error)


def read(path: Path) -> dict[str, Any] | None:
    """Return the newest status; None if there is none, or it is damaged."""
    try:
        status = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(status, dict) or not isinstance(status.get("at"), int | float):
        return None
    clients = status.get("clients")
    return (
        status if isinstance(clients, dict) and all(isinstance(c, dict) for c in clients.values()) else None
    )


def read_client_records(path: Path) -> dict[str, dict[str, Any]]:
    """Return the clients' records in the status file of an earlier run; empty if there is none."""
    clients = (read(path) or {}).get("clients", {})
    return {name: record for name, record in clients.items() if record.get("state") != ENROLLED}


def _activity(state: State, node: int | None, now: float) -> dict[str, Any]:
    """Return what a client is doing: `state` in one word, `why` in more where there is more to say."""
    client, task = None, None
    if node is not None:
        client, task = state.clients.get(node), state.tasks.get(node)
    return {
        "node": str(node) if node is not None else None,
        "state": _activity_word(client, task, now),
        "why": _activity_details(client, task, now),
    }


def _activity_word(client: ConnectedClient | None, task: PendingTask | None, now: float) -> str:
    if client is None:
        return "gone"
    if client.status != "ready":
        return client.status
    if task is not None:
        return "working" if task.awaited else "late"
    return "resting" if now < client.resume_at else "idle"


def _activity_details(client: ConnectedClient | None, task: PendingTask | None, now: float) -> str:
    if client is not None and client.reason:
        return client.reason
    if client is not None and client.learning is not None:
        return str(client.learning)
    if client is None or task is None:
        return ""
    verb = "trains on" if task.kind == "train" else "evaluates"
    left_s = task.due_at - now
    due = f"due in {left_s:.0f} s" if left_s >= 0 else f"overdue by {-left_s:.0f} s"
    return f"{verb} version {task.version} for {now - task.sent_at:.0f} s, {due}"


def _behind(state: State, record: Mapping[str, Any] | None) -> int | None:
    version = record.get("version") if record else None
    return None if version is None else state.version - version
