"""The part of the state that is saved with each version, so that a restarted server can continue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from server.coordination.state import State, TaskDuration


def progress_of(state: State) -> dict[str, Any]:
    """Return the part of the state that survives a restart, as JSON values."""
    return {
        "best_error": state.best_error,
        "rounds_without_improvement": state.rounds_without_improvement,
        "updates_since_check": state.updates_since_check,
        "durations": {client: asdict(duration) for client, duration in state.durations.items()},
    }


def resumed(state: State, version: int, features: tuple[str, ...], progress: Mapping[str, Any]) -> State:
    """Return the state in which a run continues from a version on disk.

    Tasks in flight and buffered updates of the earlier run are lost: Flower delivers no message of one run
    to another.

    Args:
        state: The state of a new run.
        version: The newest version on disk.
        features: The features of that version.
        progress: The progress that was saved with it.
    """
    return replace(
        state,
        version=version,
        features=features,
        initialised=True,
        best_error=progress["best_error"],
        rounds_without_improvement=progress["rounds_without_improvement"],
        updates_since_check=progress.get("updates_since_check", 0),
        durations={name: TaskDuration(**values) for name, values in progress.get("durations", {}).items()},
    )
