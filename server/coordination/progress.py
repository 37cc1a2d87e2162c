"""What of the coordinator's state is written with each version, and read by a server that starts again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from server.coordination.state import State, TaskDuration


def progress_of(state: State) -> dict[str, Any]:
    """The part of the state that outlives a restart, as JSON values."""
    return {
        "best_error": state.best_error,
        "rounds_without_improvement": state.rounds_without_improvement,
        "unjudged": state.unjudged,
        "paces": {name: asdict(pace) for name, pace in state.paces.items()},
    }


def resumed(state: State, version: int, features: tuple[str, ...], progress: dict[str, Any]) -> State:
    """The state in which a run goes on from a version and the progress that was written with it.

    Tasks in flight and updates not yet folded are lost with the run that sent them: Flower delivers no
    message of one run to another.
    """
    return replace(
        state,
        version=version,
        features=features,
        best_error=progress["best_error"],
        rounds_without_improvement=progress["rounds_without_improvement"],
        unjudged=progress.get("unjudged", 0),
        paces={name: TaskDuration(**values) for name, values in progress.get("paces", {}).items()},
    )
