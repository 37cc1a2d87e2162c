"""Events: everything that can happen to the coordinator."""

from __future__ import annotations

from dataclasses import dataclass

from common.protocol.messages import Description
from server.coordination.state import NodeId


@dataclass(frozen=True)
class NodesConnected:
    """The complete list of nodes that are connected now."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, eq=False)
class Described:
    """A client replied to a description request."""

    node: NodeId
    number: int
    """Number of the request."""
    description: Description
    owner: str | None = None
    """The client that the node's key is registered for; None where keys are not checked."""


@dataclass(frozen=True)
class DescriptionFailed:
    """The reply to a description request was an error."""

    node: NodeId
    reason: str
    fault: bool = False
    """Whether the client sent something that cannot be a description."""


@dataclass(frozen=True)
class ReplyAdmitted:
    """A client's update or evaluation was admitted."""

    node: NodeId
    number: int
    """Number of the task."""
    drifted: bool = False
    """Whether the client's data has drifted."""


@dataclass(frozen=True)
class TaskFailed:
    """The reply to a task was an error, or was not admitted."""

    node: NodeId
    number: int
    reason: str
    fault: bool = False
    """Whether the client sent an answer that cannot be used; if not, it reported an error."""


@dataclass(frozen=True)
class Aggregated:
    """The updates of an `Aggregate` action became the next version's weights."""

    error: float
    """The median client's reconstruction error of the version that its update started from."""
    updates: int
    """Number of updates used."""
    drifted: bool = False
    """Whether the data of several clients has drifted, so that earlier errors do not compare."""
    at_fault: tuple[str, ...] = ()
    """Names of the clients whose contributions were left out because no version with them can be read."""


@dataclass(frozen=True)
class AggregationFailed:
    """The updates of an `Aggregate` action gave no weights; they are discarded."""

    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = (
    NodesConnected
    | Described
    | DescriptionFailed
    | ReplyAdmitted
    | TaskFailed
    | Aggregated
    | AggregationFailed
    | Tick
)
