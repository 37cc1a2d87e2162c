"""The messages of the protocol: what the server asks and what a client answers.

| Flower message type | request | reply |
| --- | --- | --- |
| query | `Describe`, or `WholeVersion` to a client that still learns | `Description` |
| train | `WholeVersion` or `VersionChange` | `Update` or `VersionMissing` |
| evaluate | the same | `Evaluation` or `VersionMissing` |

`common.protocol.wire` turns messages into bytes and back. The types of the fields hold their bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import astuple, replace

from common.bounds import (
    MAX_CODECS,
    MAX_LIST,
    ClientName,
    CodecName,
    Count,
    Hash,
    NonNegative,
    PositiveCount,
    Seconds,
    Serial,
    Text,
    Total,
)
from common.compression.choice import NONE, STATELESS_CODECS, Block
from common.compression.codec import CompressionError
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import SentCovariances
from common.model.leaf_counts import SentLeafCounts
from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.weights import Shapes, Weights, add

COUNTED = ("sent_bytes", "received_bytes", "replies_bytes", "timed_bytes", "timed_s")
"""Fields of `Traffic` that the resident node counts and adds to its node configuration."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base class of all messages. A message is sent as an array: the number of its kind, then its fields."""


class Traffic(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Running totals of one client's process.

    >>> Traffic(sent_bytes=5).since(Traffic(sent_bytes=2)).sent_bytes
    3
    """

    sent_bytes: Total = 0
    """All requests, with their headers: polls, heartbeats, replies."""
    received_bytes: Total = 0
    """All responses, with their headers."""
    replies_bytes: Total = 0
    """The part of `sent_bytes` that was replies to messages."""
    timed_bytes: Total = 0
    """Bytes moved, in either direction, by requests large enough to measure the link's speed."""
    timed_s: Seconds = 0.0
    """Duration of these requests."""
    encode_s: Seconds = 0.0
    decode_s: Seconds = 0.0

    def since(self, before: Traffic) -> Traffic:
        """Return the traffic after `before`; all of it if the process has restarted since."""
        now, then = astuple(self), astuple(before)
        if any(new < old for new, old in zip(now, then, strict=True)):
            return self
        return Traffic(*(new - old for new, old in zip(now, then, strict=True)))


class Describe(Message, tag=1, frozen=True):
    """Asks a client to describe itself and its features."""

    refused: Text | None = None
    """The reason why the server has no work for this client; None if it is welcome."""
    window: PositiveCount | None = None
    """Events in a window of the fleet's model: how many events a client needs follows from it."""


class Description(Message, tag=2, frozen=True, eq=False):
    """A client's name, its features, how many rows it has to train on, and their moments."""

    client: ClientName
    instance: Annotated[str, Meta(max_length=64)]
    """A random id kept in the client's state folder: distinguishes two clients of the same name."""
    schema: Schema
    moments: Moments | None
    """Moments of the features over the rows; None without rows."""
    inline: bool
    """Whether the client accepts messages with their content inside; a resident client does."""
    drifted: bool = False
    """Whether the client's stream has drifted, so that it asks for training."""
    codecs: Annotated[tuple[CodecName, ...], Meta(max_length=MAX_CODECS)] = STATELESS_CODECS
    """Names of the codecs that the client can encode and decode."""
    held: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Hash of the model version that the client holds, from which changes may start; empty: none."""
    rows: Count = 0
    """Normal events that the client has to train on."""
    wanted: Count = 0
    """Normal events that it needs before it trains; 0: any number is enough."""

    @property
    def can_train(self) -> bool:
        """Whether the client has enough rows to train on."""
        return self.moments is not None and self.rows >= self.wanted

    def __post_init__(self) -> None:
        if self.moments is not None and len(self.moments.mean) != len(self.schema):
            raise ValueError(f"{len(self.moments.mean)} moments of {len(self.schema)} features")


class Evaluation(Message, tag=3, frozen=True, eq=False):
    """The reconstruction error of a model version on a client's held-out rows."""

    client: ClientName
    version: Count
    """The version that was evaluated."""
    rows: PositiveCount
    """Rows that the client trains on: its weight in a mean over clients."""
    error: ErrorSummary
    scores: ScoreHistogram
    """Scores of the held-out rows; empty in an update whose task did not ask for them."""
    drifted: bool
    """Whether the client's stream has drifted, so that it asks for training."""
    traffic: Traffic = Traffic()
    """The client's totals before this answer."""
    residuals: Residuals = msgspec.field(default_factory=Residuals)
    """Residuals of the held-out rows; empty where `scores` is."""


class Update(Evaluation, tag=4, frozen=True, eq=False, kw_only=True):
    """A client's training result for a version: the difference from its weights, and the version's error."""

    loss: NonNegative
    """Mean training loss of the last epoch."""
    train_s: Seconds
    difference: Annotated[Weights, Meta(max_length=0)] = {}
    """Trained minus given weights. It is sent encoded, as `block`: empty in a message that was received."""
    serial: Serial = 0
    """Number by which the server reports later whether it used this update; 0: nothing was left out of it."""
    block: Block | None = None
    """The encoded difference; None before it is encoded and after it was decoded."""
    covariances: SentCovariances | None = None
    """Covariances of the training rows, scaled for the version; None unless the task asked for them."""
    leaf_counts: SentLeafCounts | None = None
    """Counts of the training windows in the leaves of the version's trees; None likewise."""

    def encoded(self) -> Update:
        """Return the update as it is sent: with a block (exact if there was none), without the difference."""
        block = self.block or Block.of(NONE, self.difference, np.random.default_rng(0))
        return replace(self, difference={}, block=block)

    def decoded(self, shapes: Shapes) -> Update:
        """Return the update with its difference, which has these shapes if it was encoded.

        Raises:
            CompressionError: the block does not encode arrays of these shapes.
        """
        if self.block is None:
            return self
        return replace(self, difference=self.block.decoded(shapes), block=None)


Serials = Annotated[tuple[Serial, ...], Meta(max_length=MAX_LIST)]
"""Serial numbers of updates, oldest first."""


class VersionMismatchError(ValueError):
    """A change cannot be applied to the version that is held; the message says why."""


class TaskOptions(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Options of a task: how the answer is encoded, and which of the client's earlier updates were used."""

    codec: CodecName = "none"
    """Codec of the update (`common.compression.choice`)."""
    keep: bool = False
    """Whether to keep this version: the next may be sent as a change of it."""
    used: Serials = ()
    """Serial numbers of the client's newest updates that are part of a version."""
    waiting: Serials = ()
    """Serial numbers of updates that wait for aggregation. Any other update that was sent is lost."""
    scores: bool = True
    """Whether an update contains scores and residuals, which may be far larger than the rest of it."""
    covariances: bool = False
    """Whether an update contains covariances."""
    leaf_counts: bool = False
    """Whether an update contains leaf counts."""


@dataclass(frozen=True, eq=False)
class Task:
    """A model version to evaluate on the held-out rows and, in a training task, to train on the others.

    Travels as a `WholeVersion` or a `VersionChange`.
    """

    manifest: Manifest
    repeats: int = 0
    """Number of tasks of this version that the client had before: it trains in another order each time."""
    options: TaskOptions = field(default_factory=TaskOptions)


class WholeVersion(Message, tag=5, frozen=True):
    """A task with its whole model version."""

    manifest: bytes
    """The packed manifest."""
    repeats: Count
    options: TaskOptions

    @classmethod
    def of(cls, task: Task) -> WholeVersion:
        """Return the message of a task."""
        return cls(task.manifest.pack(), task.repeats, task.options)

    def task(self) -> Task:
        """Return the task.

        Raises:
            ManifestError: the manifest is damaged.
        """
        return Task(Manifest.unpack(self.manifest), self.repeats, self.options)


class VersionChange(Message, tag=6, frozen=True, eq=False):
    """A task for a client that holds an earlier version: what has changed since."""

    version: Count
    hash: Hash
    """Hash of the version that results."""
    steps: Annotated[tuple[tuple[Count, Block], ...], Meta(max_length=MAX_LIST)]
    """Each later version with the difference from the one before it, oldest first.

    Empty if the client holds this version.
    """
    scores: ScoreHistogram
    """Scores of the version that results."""
    residuals: Residuals
    """Residuals of the version that results."""
    repeats: Count
    options: TaskOptions

    @classmethod
    def of(cls, task: Task, steps: Iterable[tuple[int, Block]]) -> VersionChange:
        """Return the message of a task for a client that holds the version before the first step."""
        manifest = task.manifest
        return cls(
            version=manifest.version,
            hash=manifest.hash,
            steps=tuple(steps),
            scores=manifest.scores,
            residuals=manifest.residuals,
            repeats=task.repeats,
            options=task.options,
        )

    def applied(self, held: Manifest) -> Task:
        """Return the task, with its version made from the version that is held.

        Raises:
            VersionMismatchError: the steps do not start from it, cannot be decoded, or lead elsewhere.
        """
        first = self.steps[0][0] - 1 if self.steps else self.version
        if not first <= held.version <= self.version:
            raise VersionMismatchError(f"held is version {held.version}, the change starts from {first}")
        weights = held.weights
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                for version, block in self.steps:
                    if version > held.version:
                        weights = add(weights, block.decoded(held.architecture.shapes))
            manifest = dataclasses.replace(
                held, version=self.version, weights=weights, scores=self.scores, residuals=self.residuals
            )
        except (CompressionError, ManifestError) as error:
            raise VersionMismatchError(str(error)) from error
        if manifest.hash != self.hash:
            raise VersionMismatchError(
                f"version {held.version} became {manifest.hash[:12]}, not {self.hash[:12]}"
            )
        return Task(manifest, self.repeats, self.options)


class VersionMissing(Message, tag=7, frozen=True):
    """Answers a `VersionChange` that the client cannot apply: it needs the whole version."""

    client: ClientName
    reason: Text
