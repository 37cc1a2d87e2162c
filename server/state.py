"""What the coordinator knows, what can happen to it, and what it can ask for: plain values, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Node = int


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


@dataclass(frozen=True)
class Round:
    """One exchange with a sample of the clients."""

    kind: Literal["train", "evaluate"]
    number: int
    opened: float
    sampled: int
    awaited: frozenset[Node]
    answered: frozenset[Node] = frozenset()
    failed: Mapping[Node, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """All that the coordinator knows. Only the first group outlives a restart."""

    version: int = 0
    """The newest global version: the number of rounds folded."""
    features: tuple[str, ...] | None = None
    """The federation's schema; None until it is set or the first round opens."""
    best_error: float | None = None
    rounds_without_improvement: int = 0

    members: Mapping[Node, Member] = field(default_factory=dict)
    owes: Mapping[Node, int] = field(default_factory=dict)
    """The newest round that a node was sent a task of and has not answered; it gets no other meanwhile."""
    tries: int = 0
    """Rounds opened; with the version it seeds the sampling."""
    round: Round | None = None
    waiting_since: float | None = None
    not_before: float = 0.0
    """No round opens before this time."""
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
    name: str
    instance: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """A client's update or measurement was admitted."""

    node: Node
    number: int
    """The round that it answers."""


@dataclass(frozen=True)
class Failed:
    """A client's reply was an error, or was not admitted."""

    node: Node
    reason: str
    number: int | None = None
    """The round that it answers; 0: a question who it is; None: whatever it owes."""


@dataclass(frozen=True)
class Folded:
    """The round's updates have become the next version."""

    error: float
    """Weighted reconstruction error of the version that the round started from."""
    drifted: bool = False
    """Whether a client's stream no longer looks as it did, so that earlier errors are no measure."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = NodesSeen | Described | Answered | Failed | Folded | Tick


@dataclass(frozen=True)
class Ask:
    """Ask a client who it is; with a reason, tell it that there is no work for it."""

    node: Node
    refused: str | None = None


@dataclass(frozen=True)
class Send:
    """Send the newest version to these clients, to train on or to measure."""

    kind: Literal["train", "evaluate"]
    nodes: tuple[Node, ...]
    number: int


@dataclass(frozen=True)
class Fold:
    """Fold the updates of these clients into the next version."""

    number: int
    nodes: tuple[Node, ...]
    failed: Mapping[Node, str]


@dataclass(frozen=True)
class Measured:
    """The final version has been measured by these clients."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Abandon:
    """The round failed; nothing of it is used."""

    number: int
    failed: Mapping[Node, str]


@dataclass(frozen=True)
class Stop:
    """The run is over."""

    reason: str


Action = Ask | Send | Fold | Measured | Abandon | Stop
