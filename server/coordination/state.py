"""The coordinator's state: connected clients, tasks in flight, buffered updates and the open round.

`progress_of` and `resumed` carry over what a restarted server continues from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import msgspec

from common.bounds import MAX_FEATURES
from common.learning import Learning
from common.protocol.messages import Description

NodeId = int
"""Flower's number for one connection of a client; a client that reconnects may get another."""

Kind = Literal["train", "evaluate"]


@dataclass(frozen=True)
class ConnectedClient:
    """A connected node and the client on it. The only place where a client's description is kept."""

    status: Literal["asked", "learning", "ready", "refused"]
    """asked: its description was requested; learning: it has too few events to train on; ready: it can get
    tasks; refused: it cannot, see `reason`."""
    ask_at: float
    """The time of the next request for its description."""
    description: Description | None = None
    """The newest one; None until the client has described itself."""
    reason: str = ""
    """The reason why it was refused."""
    first_request: int = 0
    """Number of the first description request of this connection; replies to earlier ones are ignored."""
    drifted: bool = False
    """Whether its data has drifted; such clients get tasks first."""
    resume_at: float = 0.0
    """The time when it may get tasks again after one failed."""
    trained_version: int = -1
    """The version of its newest training task; -1: it has had none."""
    trained_rows: int = 0
    """Its rows when it got its newest training task; 0: it has had none."""
    repeats: int = 0
    """Number of training tasks of that version that it had before the newest one."""
    last_task: int = 0
    """Number of its newest training task; the client with the lowest one is served first."""
    delivered: int = 0
    """The newest version that it was sent without a task; 0: none."""
    learned_from: tuple[int, float] | None = None
    """Its rows when it was first seen learning, and the time; None: it was not."""
    described_at: float = 0.0
    """The time when it last described itself."""

    @property
    def name(self) -> str:
        """The client's name; empty until it has described itself."""
        return self.description.client if self.description is not None else ""

    def lacks(self, version: int) -> bool:
        """Return whether it should get this version without a task; a detector cannot use version 0."""
        waits = self.status == "learning" or (self.status == "ready" and self.trained_version < 0)
        return waits and self.delivered < version

    @property
    def rows_have_doubled(self) -> bool:
        """Whether it has at least twice the rows that it had at its newest training task."""
        rows = self.description.rows if self.description is not None else 0
        return 0 < 2 * self.trained_rows <= rows

    @property
    def learning(self) -> Learning | None:
        """Its progress towards training; None if it is not learning."""
        if self.status != "learning" or self.description is None or self.learned_from is None:
            return None
        rows, since = self.learned_from
        gained, took_s = self.description.rows - rows, self.described_at - since
        per_s = gained / took_s if gained > 0 and took_s > 0 else None
        return Learning(self.description.rows, self.description.wanted, per_s)


@dataclass(frozen=True)
class PendingTask:
    """A task that was sent and has no reply yet. A node has at most one."""

    number: int
    kind: Kind
    client: str
    version: int
    sent_at: float
    due_at: float
    """The time when the task becomes overdue."""
    round_id: int
    """The round that the task belongs to; 0: none, in asynchronous training."""
    awaited: bool = True
    """Whether a round or the buffer still waits for the reply. A late reply is used too."""
    check_at: float = 0.0
    """The time at which the node of an overdue task is asked for a description, to learn if it was lost."""


@dataclass(frozen=True)
class BufferedUpdate:
    """An admitted update that waits for the next aggregation."""

    number: int
    """Number of its task."""
    node: NodeId
    version: int
    """The version that it started from."""
    round_id: int


@dataclass(frozen=True)
class Round:
    """Tasks that are sent together and awaited together."""

    kind: Kind
    number: int
    """The version that the round makes; for an evaluation, one more than the final version."""
    round_id: int
    opened_at: float
    sampled: int
    """Number of clients that got a task."""
    awaited: frozenset[NodeId]
    answered: frozenset[NodeId] = frozenset()


@dataclass(frozen=True)
class TaskDuration:
    """Smoothed time from task to reply of one client, in seconds."""

    mean_s: float
    deviation_s: float
    """Mean absolute deviation from the mean."""


@dataclass(frozen=True)
class Failure:
    """The reason why a client's task brought no reply that could be used."""

    client: str
    reason: str


@dataclass(frozen=True)
class Faults:
    """Answers of a client that could not be used (`server.coordination.clients`)."""

    in_row: int = 0
    """Answers in a row that could not be used."""
    reason: str = ""
    """The fault of the last of them."""
    until: float = 0.0
    """The time when the client's quarantine ends."""


@dataclass(frozen=True)
class State:
    """The coordinator's whole knowledge. Only the first group of fields survives a restart."""

    version: int = 0
    """The newest model version: the number of aggregations."""
    features: tuple[str, ...] | None = None
    """The federation's features; None until they are declared or chosen by majority."""
    declared: bool = False
    """Whether the features are those of `data.features`, and do not follow the clients."""
    max_features: int = MAX_FEATURES
    """Most features that clients can give the federation (`federation.max_model_mb`)."""
    first_version: int = 0
    """The version that the present features begin with."""
    best_error: float | None = None
    rounds_without_improvement: int = 0
    updates_since_check: int = 0
    """Updates aggregated since the error was last compared with the best."""
    settled: bool = False
    """Whether the federation has converged since the first version of its features."""
    durations: Mapping[str, TaskDuration] = field(default_factory=dict)
    """By client name, so that they are known after a reconnection."""
    initialised: bool = False
    """Whether the first version of these features is published."""

    clients: Mapping[NodeId, ConnectedClient] = field(default_factory=dict)
    tasks: Mapping[NodeId, PendingTask] = field(default_factory=dict)
    """Includes tasks of disconnected nodes while a late update would be fresh enough to use."""
    buffer: tuple[BufferedUpdate, ...] = ()
    failures: Mapping[NodeId, Failure] = field(default_factory=dict)
    """Failed tasks since the last aggregation."""
    faults: Mapping[str, Faults] = field(default_factory=dict)
    """By client name, so that a reconnection does not end a quarantine."""
    last_number: int = 0
    """Number of the newest message; tasks and description requests share one sequence."""
    last_round_id: int = 0
    """With the version, the seed of the sampling."""
    round: Round | None = None
    aggregating: bool = False
    """True between `Aggregate` and `Aggregated` or `AggregationFailed`."""
    waiting_since: float | None = None
    next_round_at: float = 0.0
    """Earliest time of the next round, after one that failed."""
    next_version_at: float = 0.0
    """Earliest time to begin work on the next version (`federation.interval_s`)."""
    ending: str = ""
    """The reason why training has ended, while the final version is still to be evaluated; else empty."""
    stopped: str | None = None
    """The reason why the run has ended; None while it goes on."""

    def has_converged(self, patience: int) -> bool:
        """Return whether the error has not improved in this many rounds; never with 0 rounds."""
        return 0 < patience <= self.rounds_without_improvement


def ready_nodes(state: State) -> list[NodeId]:
    """Return the nodes whose clients can take part."""
    return sorted(node for node, client in state.clients.items() if client.status == "ready")


def ready_names(state: State) -> set[str]:
    """Return the names of the clients that can take part."""
    return {client.name for client in state.clients.values() if client.status == "ready"}


def idle_nodes(state: State, now: float) -> list[NodeId]:
    """Return the nodes that can be given a task now."""
    return [n for n in ready_nodes(state) if n not in state.tasks and now >= state.clients[n].resume_at]


def busy_nodes(state: State, kind: Kind = "train") -> list[NodeId]:
    """Return the nodes whose reply to a task of this kind is awaited."""
    return sorted(node for node, task in state.tasks.items() if task.awaited and task.kind == kind)


def client_name(state: State, node: NodeId) -> str:
    """Return the name of a node's client, or the node's number where the name is unknown."""
    client, task = state.clients.get(node), state.tasks.get(node)
    return (client.name if client else "") or (task.client if task else "") or str(node)


def is_new(state: State, client: ConnectedClient) -> bool:
    """Return whether the federation has versions, but never had an update of this client."""
    return state.version > 0 and client.name not in state.durations


def with_client(state: State, node: NodeId, client: ConnectedClient) -> State:
    """Return the state with this client on the node."""
    return replace(state, clients={**state.clients, node: client})


def progress_of(state: State) -> dict[str, Any]:
    """Return the part of the state that survives a restart, as JSON values."""
    return {
        "best_error": state.best_error,
        "rounds_without_improvement": state.rounds_without_improvement,
        "updates_since_check": state.updates_since_check,
        "settled": state.settled,
        "durations": {client: asdict(duration) for client, duration in state.durations.items()},
    }


def resumed(state: State, version: int, features: tuple[str, ...], progress: Mapping[str, Any]) -> State:
    """Return the state in which a run continues from a version on disk.

    Tasks in flight and buffered updates of the earlier run are lost: Flower delivers no message of one run
    to another. If other features are declared than the version's, the run starts again with these.

    Args:
        state: The state of a new run.
        version: The newest version on disk.
        features: The features of that version.
        progress: The progress that was saved with it; fields that it lacks have their initial values.

    Raises:
        ValueError: a value is of another type, or unknown.
    """
    if state.declared and set(state.features or ()) != set(features):
        return replace(state, version=version + 1, first_version=version + 1)
    saved = msgspec.convert(progress, _Progress)
    return replace(
        state,
        version=version,
        features=features,
        initialised=True,
        best_error=saved.best_error,
        rounds_without_improvement=saved.rounds_without_improvement,
        updates_since_check=saved.updates_since_check,
        settled=saved.settled,
        durations=saved.durations,
    )


@dataclass(frozen=True)
class _Progress:
    """The progress that `progress_of` returns, as it is read from a file."""

    best_error: float | None = None
    rounds_without_improvement: int = 0
    updates_since_check: int = 0
    settled: bool = False
    durations: dict[str, TaskDuration] = field(default_factory=dict)
