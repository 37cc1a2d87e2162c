"""Actions: everything that the coordinator can ask its caller to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.settings import FederationSettings
from server.coordination.state import Failure, Kind, NodeId


@dataclass(frozen=True)
class RequestDescription:
    """Request a client's description."""

    node: NodeId
    number: int
    refused: str | None = None
    """The reason why the client gets no tasks, which is sent to it; None if it may get tasks."""
    deliver: bool = False
    """Whether the newest version is sent with the request, to a client that gets it with no task."""


@dataclass(frozen=True)
class CreateFirstVersion:
    """Make the first version of the federation's features, and write it with the progress."""

    version: int
    """Its number: 0, or higher if the federation starts again with other features."""
    features: tuple[str, ...]
    clients: tuple[NodeId, ...]
    """The clients whose descriptions determine it."""
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class TaskOrder:
    """One client's task."""

    node: NodeId
    number: int
    repeats: int = 0
    """Number of training tasks of the same version that the client had before."""


@dataclass(frozen=True)
class SendTasks:
    """Send the newest version to clients, for training or evaluation."""

    kind: Kind
    orders: tuple[TaskOrder, ...]


@dataclass(frozen=True)
class UpdateShare:
    """One update's part in an aggregation."""

    number: int
    """Number of its task."""
    node: NodeId
    staleness: int
    """Number of versions made since the one that it started from."""
    discount: float
    """Factor by which staleness reduces it: above 0, at most 1."""


@dataclass(frozen=True)
class Aggregate:
    """Aggregate these updates; the next event must be `Aggregated` or `AggregationFailed`."""

    shares: tuple[UpdateShare, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Publish:
    """Write the version that was just aggregated, together with the progress that belongs to it.

    It precedes every action that lets a client see the version.
    """

    version: int
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class DropUpdate:
    """Discard an admitted update."""

    number: int
    node: NodeId
    reason: str


@dataclass(frozen=True)
class EvaluationDone:
    """Record the evaluation of the final version by these clients."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True)
class AbandonRound:
    """Record a round that failed; nothing of it is used."""

    number: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Stop:
    """End the run."""

    reason: str


Action = (
    RequestDescription
    | CreateFirstVersion
    | SendTasks
    | Aggregate
    | Publish
    | DropUpdate
    | EvaluationDone
    | AbandonRound
    | Stop
)


@dataclass(frozen=True)
class Step:
    """The context of one step: the time, the settings, and the actions decided so far."""

    now: float
    """Seconds on a monotonic clock."""
    settings: FederationSettings
    actions: list[Action] = field(default_factory=list)
