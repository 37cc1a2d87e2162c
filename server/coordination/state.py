"""What the coordinator knows, what can happen to it, and what it can ask for: plain values, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Node = int
Kind = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Member:
    """A connected client."""

    status: Literal["asked", "ready", "refused"]
    ask_again: float
    """When to ask it once more, while it is not ready."""
    name: str = ""
    instance: str = ""
    features: tuple[str, ...] = ()
    reason: str = ""
    """Why it was refused."""
    seen: int = 0
    """Number of the first question since it was seen: what answers an earlier one says nothing of now."""
    drifted: bool = False
    """Whether its stream no longer looks as it did: it goes first."""
    rest_until: float = 0.0
    """It gets no task before this time: its last one failed."""
    given: int = -1
    """The version that it was last given to train on."""
    again: int = 0
    """How often it had been given that version before."""
    turn: int = 0
    """Number of its newest task: who has waited longest goes first."""


@dataclass(frozen=True)
class PendingTask:
    """A task that was sent and has no answer yet. A node has at most one."""

    number: int
    kind: Kind
    name: str
    version: int
    sent: float
    due: float
    """Until then it counts as at work."""
    wave: int
    """Tasks of one synchronous round, or of one measurement, share this; 0 otherwise."""
    awaited: bool = True
    """Whether anything waits for it. An answer that is no longer awaited is used all the same."""
    ask_at: float = 0.0
    """When to ask a node whose task is overdue whether it is still there."""


@dataclass(frozen=True)
class BufferedUpdate:
    """An admitted update that waits to be folded."""

    number: int
    node: Node
    version: int
    wave: int


@dataclass(frozen=True)
class Round:
    """Tasks that are waited for together."""

    kind: Kind
    number: int
    wave: int
    opened: float
    sampled: int
    awaited: frozenset[Node]
    answered: frozenset[Node] = frozenset()


@dataclass(frozen=True)
class TaskDuration:
    """How long one client's tasks take, smoothed."""

    mean_s: float
    spread_s: float
    """Mean deviation from the mean."""


@dataclass(frozen=True)
class State:
    """All that the coordinator knows. Only the first group outlives a restart."""

    version: int = 0
    """The newest global version: the number of folds."""
    features: tuple[str, ...] | None = None
    """The federation's schema; None until it is set or the first task is sent."""
    best_error: float | None = None
    rounds_without_improvement: int = 0
    unjudged: int = 0
    """Updates folded since improvement was last judged."""
    paces: Mapping[str, TaskDuration] = field(default_factory=dict)
    """By the client's name, so that a client that returns is known."""

    members: Mapping[Node, Member] = field(default_factory=dict)
    tasks: Mapping[Node, PendingTask] = field(default_factory=dict)
    """Of nodes that are gone, too, as long as an answer would be fresh enough to use."""
    buffer: tuple[BufferedUpdate, ...] = ()
    failed: Mapping[Node, str] = field(default_factory=dict)
    """Why tasks came to nothing since the last fold."""
    numbers: int = 0
    """Messages sent: each has a number of its own."""
    waves: int = 0
    """Rounds opened; with the version it seeds the sampling."""
    round: Round | None = None
    folding: bool = False
    """Between the order to fold and the word that it was done."""
    waiting_since: float | None = None
    not_before: float = 0.0
    """No round opens before this time."""
    paced_until: float = 0.0
    """Nothing is begun for the next version before this time."""
    ending: str = ""
    """Why no more is trained: only the measurement of the final version remains. Empty before."""
    stopped: str | None = None


@dataclass(frozen=True)
class NodesSeen:
    """The nodes that are connected now."""

    nodes: frozenset[Node]


@dataclass(frozen=True)
class Described:
    """A client said who it is."""

    node: Node
    number: int
    """Of the question."""
    name: str
    instance: str
    features: tuple[str, ...]
    drifted: bool = False
    owner: str | None = None
    """The client that its key was registered for; None where keys do not count."""


@dataclass(frozen=True)
class DescribeFailed:
    """A client did not say who it is: its reply was an error."""

    node: Node
    reason: str


@dataclass(frozen=True)
class ReplyAdmitted:
    """A client's update or measurement was admitted."""

    node: Node
    number: int
    """Of the task."""
    drifted: bool = False


@dataclass(frozen=True)
class TaskFailed:
    """A client's reply to a task was an error, or was not admitted."""

    node: Node
    number: int
    reason: str


@dataclass(frozen=True)
class Aggregated:
    """Updates have become the next version."""

    error: float
    """Weighted reconstruction error of the versions that they started from."""
    updates: int
    drifted: bool = False
    """Whether a client's stream no longer looks as it did, so that earlier errors are no measure."""


@dataclass(frozen=True)
class AggregationFailed:
    """Nothing could be made of the updates: they are gone, and the version stays."""

    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = (
    NodesSeen
    | Described
    | DescribeFailed
    | ReplyAdmitted
    | TaskFailed
    | Aggregated
    | AggregationFailed
    | Tick
)


@dataclass(frozen=True)
class AskDescription:
    """Ask a client who it is; with a reason, tell it that there is no work for it."""

    node: Node
    number: int
    refused: str | None = None


@dataclass(frozen=True)
class TaskOrder:
    """One client's task."""

    node: Node
    number: int
    again: int = 0
    """How often the client has been given this version before."""


@dataclass(frozen=True)
class SendTasks:
    """Send the newest version to these clients, to train on or to measure."""

    kind: Kind
    orders: tuple[TaskOrder, ...]


@dataclass(frozen=True)
class UpdateShare:
    """One update's part in a fold."""

    number: int
    node: Node
    staleness: int
    """Versions that came after the one that it started from."""
    discount: float


@dataclass(frozen=True)
class Aggregate:
    """Make the next version of these updates."""

    shares: tuple[UpdateShare, ...]
    failed: Mapping[Node, str]


@dataclass(frozen=True)
class DropUpdate:
    """An admitted update is not used."""

    number: int
    node: Node
    reason: str


@dataclass(frozen=True)
class EvaluationDone:
    """The final version has been measured by these clients."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class AbandonRound:
    """The round failed; nothing of it is used."""

    number: int
    failed: Mapping[Node, str]


@dataclass(frozen=True)
class Stop:
    """The run is over."""

    reason: str


Action = AskDescription | SendTasks | Aggregate | DropUpdate | EvaluationDone | AbandonRound | Stop
