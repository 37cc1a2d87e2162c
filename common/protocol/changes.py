"""A version told as what changed since one that a client holds, and its word when it holds none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from common.compression.choice import Block
from common.compression.codec import CompressionError
from common.formats.bundle import BundleError, checked, pack, unpack
from common.model.manifest import Manifest, ManifestError
from common.model.residuals import Residuals
from common.model.sketch import ScoreSketch
from common.model.weights import add
from common.protocol.messages import Task, TaskOptions
from common.protocol.wire import Arrays, Fields, Packed


class VersionMismatchError(ValueError):
    """The version that is held does not become the one that is meant; says why."""


@dataclass(frozen=True)
class VersionStep:
    """From one version's weights to the next one's: both sides add the same decoded difference."""

    version: int
    """That it leads to."""
    base: str
    """Hash of the version before."""
    hash: str
    """Of the version that it leads to."""
    block: Block

    def pack(self) -> bytes:
        """The step as the content of a file."""
        fields = dataclasses.asdict(self) | {"block": self.block.codec}
        return pack(fields, {"block": np.frombuffer(self.block.content, np.uint8)})

    @classmethod
    def unpack(cls, content: bytes) -> VersionStep:
        """The step of `pack`.

        Raises:
            BundleError: the bytes are damaged or no step.
        """
        fields, arrays = unpack(content)
        try:
            block = {"codec": fields.pop("block"), "content": ""}
            found = checked(cls, {**fields, "block": block})
            return replace(found, block=Block(found.block.codec, arrays["block"].tobytes()))
        except KeyError as error:
            raise BundleError(f"a step without {error}") from error


@dataclass(frozen=True)
class _Header:
    """The fields of a packed change."""

    again: int
    terms: TaskOptions
    version: int
    hash: str
    steps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, eq=False)
class VersionChange(Packed):
    """As a `Task`, for a client that holds an earlier version."""

    version: int
    hash: str
    """Of the version that it becomes."""
    steps: tuple[tuple[int, Block], ...]
    """The versions in between and the last, each with the difference from the one before it; oldest first.

    None where the client holds this very version.
    """
    scores: ScoreSketch
    """The version's."""
    residuals: Residuals
    """The version's."""
    again: int
    terms: TaskOptions

    @classmethod
    def of(cls, task: Task, steps: tuple[VersionStep, ...]) -> VersionChange:
        """The task, told to a client that holds the version that the first step starts from."""
        manifest = task.manifest
        blocks = tuple((step.version, step.block) for step in steps)
        return cls(
            manifest.version,
            manifest.hash,
            blocks,
            manifest.scores,
            manifest.residuals,
            task.again,
            task.terms,
        )

    def applied(self, held: Manifest) -> Task:
        """The task, from the version that is held.

        Raises:
            CannotChange: the steps do not start there, cannot be decoded, or lead to something else.
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
            manifest = replace(
                held, version=self.version, weights=weights, scores=self.scores, residuals=self.residuals
            )
        except (CompressionError, ManifestError) as error:
            raise VersionMismatchError(str(error)) from error
        if manifest.hash != self.hash:
            raise VersionMismatchError(
                f"version {held.version} became {manifest.hash[:12]}, not {self.hash[:12]}"
            )
        return Task(manifest, self.again, self.terms)

    def _parts(self) -> tuple[Fields, Arrays]:
        named = tuple((version, block.codec) for version, block in self.steps)
        header = dataclasses.asdict(_Header(self.again, self.terms, self.version, self.hash, named))
        arrays = {f"step/{version}": np.frombuffer(block.content, np.uint8) for version, block in self.steps}
        arrays["scores"] = np.frombuffer(self.scores.pack(), np.uint8)
        return header, arrays | {"residuals": self.residuals.packed()}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        said = checked(_Header, fields)
        steps = tuple((v, Block(codec, arrays[f"step/{v}"].tobytes())) for v, codec in said.steps)
        scores = ScoreSketch.unpack(arrays["scores"].tobytes())
        residuals = Residuals.unpacked(arrays["residuals"])
        return cls(said.version, said.hash, steps, scores, residuals, said.again, said.terms)


@dataclass(frozen=True)
class VersionMissing(Packed):
    """Instead of an answer: the change means nothing to this client, which needs the whole version."""

    client: str
    reason: str
