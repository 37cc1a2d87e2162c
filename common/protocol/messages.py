"""The protocol: what the server asks and what a client answers, each as one block of bytes.

One block, because Flower moves every object of a message in a request of its own.

| Flower message type | request | reply |
| --- | --- | --- |
| query | `Describe` | `Description` |
| train | `Task`, or a `Change` (`common.protocol.changes`) | `Update`, or `Missing` |
| evaluate | the same | `Evaluation`, or `Missing` |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from common.compression.choice import STATELESS, Block
from common.formats.bundle import checked
from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.sketch import ScoreSketch
from common.model.weights import Shapes, Weights
from common.protocol.traffic import Traffic
from common.protocol.wire import CONTENT, PROTOCOL, RECORD, Arrays, Fields, Packed, ProtocolError

__all__ = ["CONTENT", "PROTOCOL", "RECORD", "ProtocolError"]

_COLUMNS = ("mean", "m2", "minimum", "maximum", "within")
_SCORES, _RESIDUALS, _DIFFERENCE, _BLOCK = "scores", "residuals", "difference/", "block"


@dataclass(frozen=True)
class Describe(Packed):
    """Who are you, and what do your features look like?"""

    introduces: ClassVar[bool] = True
    refused: str | None = None
    """Why the server has no work for this client; None for one that is welcome."""


@dataclass(frozen=True)
class _Introduction:
    """The fields of a packed description."""

    client: str
    instance: str
    features: tuple[str, ...]
    count: int
    inline: bool
    drifted: bool
    codecs: tuple[str, ...]
    held: str


@dataclass(frozen=True, eq=False)
class Description(Packed):
    """A client's name, its features, and their moments over the rows that it trains on."""

    introduces: ClassVar[bool] = True
    client: str
    instance: str
    """Random, kept with the client's state: tells a client that returns from another of its name."""
    schema: Schema
    moments: Moments
    inline: bool
    """Whether the client can be sent messages with their content inside: a resident one can."""
    drifted: bool = False
    """Whether the client's stream no longer looks as it did: it asks for training."""
    codecs: tuple[str, ...] = STATELESS
    """By name, those that it can encode and decode."""
    held: str = ""
    """Hash of the version that it holds, and that a `Change` may start from; empty: none."""

    def _parts(self) -> tuple[Fields, Arrays]:
        moments = self.moments
        said = _Introduction(
            self.client, self.instance, self.schema.features, moments.count, self.inline, self.drifted,
            self.codecs, self.held,
        )  # fmt: skip
        return dataclasses.asdict(said), {name: getattr(moments, name) for name in _COLUMNS}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        said = checked(_Introduction, fields)
        schema, moments = Schema(said.features), Moments(said.count, *(arrays[name] for name in _COLUMNS))
        if len(moments.mean) != len(schema):
            raise ValueError(f"{len(moments.mean)} moments of {len(schema)} features")
        return cls(
            said.client, said.instance, schema, moments, said.inline, said.drifted, said.codecs, said.held
        )


@dataclass(frozen=True)
class TaskOptions:
    """How the answer to a task shall travel, and what became of the client's earlier ones."""

    codec: str = "none"
    """Of the update (`common.compression.choice`)."""
    keep: bool = False
    """Whether to keep this version: the next may be told as a change of it."""
    used: tuple[int, ...] = ()
    """Serial numbers of the client's newest updates that are part of a version."""
    waiting: tuple[int, ...] = ()
    """Those that wait to be. Any other that was sent is lost, and its error is to be taken back."""
    scores: bool = True
    """Whether an update shall carry its scores and residuals, which may be far larger than the rest of it."""


@dataclass(frozen=True)
class Errand:
    """The fields of a packed task."""

    again: int
    terms: TaskOptions


@dataclass(frozen=True, eq=False)
class Task(Packed):
    """Measure this version on your held-out rows; if it came to train, train on the others."""

    manifest: Manifest
    again: int = 0
    """How often the client has been given this version before: another pass, in another order."""
    terms: TaskOptions = TaskOptions()

    def _parts(self) -> tuple[Fields, Arrays]:
        errand = dataclasses.asdict(Errand(self.again, self.terms))
        return errand, {"manifest": np.frombuffer(self.manifest.pack(), np.uint8)}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        try:
            manifest = Manifest.unpack(arrays["manifest"].tobytes())
        except ManifestError as error:
            raise ValueError(f"manifest: {error}") from error
        errand = checked(Errand, fields)
        return cls(manifest, errand.again, errand.terms)


@dataclass(frozen=True)
class _Measurement:
    """The fields of a packed evaluation."""

    client: str
    version: int
    rows: int
    error: ErrorSummary
    drifted: bool
    traffic: Traffic


@dataclass(frozen=True)
class _Training(_Measurement):
    """The fields of a packed update."""

    loss: float
    train_s: float
    serial: int
    codec: str | None


@dataclass(frozen=True, eq=False)
class Evaluation(Packed):
    """The reconstruction error of a version on a client's held-out rows."""

    client: str
    version: int
    """The version that was measured."""
    rows: int
    """Rows that the client trains on: its weight in a mean over clients."""
    error: ErrorSummary
    scores: ScoreSketch
    """Of the held-out rows; of an update that was not asked for them, empty."""
    drifted: bool
    """Whether the client's stream no longer looks as it did: it asks for training."""
    traffic: Traffic = dataclasses.field(default=Traffic(), kw_only=True)
    """The client's, up to before this answer."""
    residuals: Residuals = dataclasses.field(default_factory=Residuals, kw_only=True)
    """Of the held-out rows, as `scores`."""

    def _parts(self) -> tuple[Fields, Arrays]:
        scores = np.frombuffer(self.scores.pack(), np.uint8)
        return _fields(_Measurement, self), {_SCORES: scores, _RESIDUALS: self.residuals.packed()}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        said = vars(checked(_Measurement, fields))
        return cls(**said, scores=_sketch(arrays), residuals=Residuals.unpacked(arrays[_RESIDUALS]))


@dataclass(frozen=True, eq=False)
class Update(Evaluation):
    """What one client learned: the difference from the version it was given, and that version's error."""

    loss: float
    """Mean training loss of the last epoch."""
    train_s: float
    difference: Weights
    """Empty where it has come as a block that nobody has decoded yet."""
    serial: int = 0
    """By which the server says later what became of it; 0: its encoding left nothing out."""
    block: Block | None = None
    """The difference as it travels; None: as it is."""

    def decoded(self, shapes: Shapes) -> Update:
        """The same with its difference, which has these shapes if it came as a block.

        Raises:
            CompressionError: the block is none of such a model.
        """
        if self.block is None:
            return self
        return dataclasses.replace(self, difference=self.block.decoded(shapes), block=None)

    def _parts(self) -> tuple[Fields, Arrays]:
        _, arrays = super()._parts()
        if self.block is None:
            named = {_DIFFERENCE + n: a for n, a in self.difference.items()}
            return {**_fields(_Training, self, "codec"), "codec": None}, arrays | named
        content = np.frombuffer(self.block.content, np.uint8)
        return {**_fields(_Training, self, "codec"), "codec": self.block.codec}, arrays | {_BLOCK: content}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        said = vars(checked(_Training, fields))
        codec = said.pop("codec")
        block = None if codec is None else Block(codec, arrays[_BLOCK].tobytes())
        difference = {n.removeprefix(_DIFFERENCE): a for n, a in arrays.items() if n.startswith(_DIFFERENCE)}
        residuals = Residuals.unpacked(arrays[_RESIDUALS])
        return cls(**said, scores=_sketch(arrays), residuals=residuals, difference=difference, block=block)


def _fields(header: type[_Measurement], answer: Evaluation, *but: str) -> Fields:
    named = {f.name: getattr(answer, f.name) for f in dataclasses.fields(header) if f.name not in but}
    return {
        **named, "error": dataclasses.asdict(answer.error), "traffic": dataclasses.asdict(answer.traffic)
    }  # fmt: skip


def _sketch(arrays: Arrays) -> ScoreSketch:
    return ScoreSketch.unpack(arrays[_SCORES].tobytes())
