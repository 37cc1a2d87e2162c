"""Tasks: a model version to evaluate or to train on, sent whole or as changes of an earlier version."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from common.bounds import MAX_LIST, ClientName, CodecName, Count, Hash, Serial, Text
from common.compression.choice import Block
from common.compression.codec import CompressionError
from common.formats import bundle
from common.formats.bundle import BundleError
from common.model.manifest import Manifest, ManifestError
from common.model.residuals import Residuals
from common.model.sketch import ScoreSketch
from common.model.weights import add
from common.protocol.messages import Message

Serials = Annotated[tuple[Serial, ...], Meta(max_length=MAX_LIST)]


class VersionMismatchError(ValueError):
    """A change cannot be applied to the version that is held; the message says why."""


class TaskOptions(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How the answer to a task travels, and what became of the client's earlier updates."""

    codec: CodecName = "none"
    """Codec of the update (`common.compression.choice`)."""
    keep: bool = False
    """Whether to keep this version: the next may be sent as a change of it."""
    used: Serials = ()
    """Serial numbers of the client's newest updates that are part of a version."""
    waiting: Serials = ()
    """Serial numbers of updates that wait for aggregation. Any other update that was sent is lost."""
    scores: bool = True
    """Whether an update carries scores and residuals, which may be far larger than the rest of it."""


@dataclass(frozen=True, eq=False)
class Task:
    """A model version to evaluate on the held-out rows and, in a training task, to train on the others.

    Travels as a `WholeVersion` or a `VersionChange`.
    """

    manifest: Manifest
    repeats: int = 0
    """How many tasks of this version the client had before: it trains in another order each time."""
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


class VersionStep(msgspec.Struct, frozen=True):
    """The encoded difference between two consecutive versions, which server and clients add to the first."""

    version: Count
    """The later version."""
    base: Hash
    """Hash of the earlier version."""
    hash: Hash
    """Hash of the later version."""
    block: Block

    def pack(self) -> bytes:
        """Return the step as the content of a file."""
        fields = {"version": self.version, "base": self.base, "hash": self.hash, "block": self.block.codec}
        return bundle.pack(fields, {"block": np.frombuffer(self.block.content, np.uint8)})

    @classmethod
    def unpack(cls, content: bytes) -> VersionStep:
        """Return the step of `pack`.

        Raises:
            BundleError: the bytes are damaged, or not a step.
        """
        fields, arrays = bundle.unpack(content)
        try:
            block = (fields["block"], arrays["block"].tobytes())
            return msgspec.convert({**fields, "block": block}, cls)
        except (KeyError, ValueError) as error:
            raise BundleError(f"not a step between versions: {error}") from error


class VersionChange(Message, tag=6, frozen=True, eq=False):
    """A task for a client that holds an earlier version: what has changed since."""

    version: Count
    hash: Hash
    """Hash of the version that results."""
    steps: Annotated[tuple[tuple[Count, Block], ...], Meta(max_length=MAX_LIST)]
    """Each later version with the difference from the one before it, oldest first.

    Empty if the client holds this version.
    """
    scores: ScoreSketch
    """Scores of the version that results."""
    residuals: Residuals
    """Residuals of the version that results."""
    repeats: Count
    options: TaskOptions

    @classmethod
    def of(cls, task: Task, steps: tuple[VersionStep, ...]) -> VersionChange:
        """Return the message of a task for a client that holds the version before the first step."""
        manifest = task.manifest
        return cls(
            version=manifest.version,
            hash=manifest.hash,
            steps=tuple((step.version, step.block) for step in steps),
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
