"""The protocol: what the server asks and what a client answers, each as one block of bytes.

One block, because Flower moves every object of a message in a request of its own.

| Flower message type | request | reply |
| --- | --- | --- |
| query | `Describe` | `Description` |
| train | `Task` | `Update` |
| evaluate | `Task` | `Evaluation` |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from common.bundle import BundleError, checked, pack, unpack
from common.manifest import Manifest, ManifestError
from common.moments import Moments
from common.schema import Schema
from common.scoring import ErrorSummary
from common.sketch import ScoreSketch
from common.weights import Weights

PROTOCOL = 3

RECORD, CONTENT = "flockwatch", "content"
"""A Flower message holds one record with one value: a message of this file, packed."""

_COLUMNS = ("mean", "m2", "minimum", "maximum")
_SCORES, _DIFFERENCE = "scores", "difference/"

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


class ProtocolError(ValueError):
    """A message cannot be understood; says which message, and whether one side is too old."""


@dataclass(frozen=True)
class _Message:
    """What all messages share: bytes out, bytes in, and a version that both sides check."""

    def pack(self) -> bytes:
        """The message as bytes."""
        fields, arrays = self._parts()
        return pack({**fields, "message": type(self).__name__, "protocol": PROTOCOL}, arrays)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """The message in `content`.

        Raises:
            ProtocolError: the bytes are damaged, another message, or of another protocol version.
        """
        try:
            fields, arrays = unpack(content)
            protocol, name = fields.pop("protocol"), fields.pop("message")
        except (BundleError, KeyError) as error:
            raise ProtocolError(f"not a {cls.__name__}: {error}") from error
        if protocol != PROTOCOL:
            raise ProtocolError(
                f"{name} of protocol {protocol}, but this program speaks {PROTOCOL}: upgrade the older side"
            )
        if name != cls.__name__:
            raise ProtocolError(f"expected a {cls.__name__}, received a {name}")
        try:
            return cls._of_parts(fields, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{name} is incomplete or wrong: {error}") from error

    def _parts(self) -> tuple[Fields, Arrays]:
        return dataclasses.asdict(self), {}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        return checked(cls, fields)


@dataclass(frozen=True)
class Describe(_Message):
    """Who are you, and what do your features look like?"""

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


@dataclass(frozen=True, eq=False)
class Description(_Message):
    """A client's name, its features, and their moments over the rows that it trains on."""

    client: str
    instance: str
    """Random, kept with the client's state: tells a client that returns from another of its name."""
    schema: Schema
    moments: Moments
    inline: bool
    """Whether the client can be sent messages with their content inside: a resident one can."""
    drifted: bool = False
    """Whether the client's stream no longer looks as it did: it asks for training."""

    def _parts(self) -> tuple[Fields, Arrays]:
        moments = self.moments
        said = _Introduction(
            self.client, self.instance, self.schema.features, moments.count, self.inline, self.drifted
        )
        return dataclasses.asdict(said), {name: getattr(moments, name) for name in _COLUMNS}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        said = checked(_Introduction, fields)
        schema, moments = Schema(said.features), Moments(said.count, *(arrays[name] for name in _COLUMNS))
        if len(moments.mean) != len(schema):
            raise ValueError(f"{len(moments.mean)} moments of {len(schema)} features")
        return cls(said.client, said.instance, schema, moments, said.inline, said.drifted)


@dataclass(frozen=True)
class _Repetition:
    """The fields of a packed task."""

    again: int


@dataclass(frozen=True, eq=False)
class Task(_Message):
    """Measure this version on your held-out rows; if it came to train, train on the others."""

    manifest: Manifest
    again: int = 0
    """How often the client has been given this version before: another pass, in another order."""

    def _parts(self) -> tuple[Fields, Arrays]:
        return {"again": self.again}, {"manifest": np.frombuffer(self.manifest.pack(), np.uint8)}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        try:
            return cls(Manifest.unpack(arrays["manifest"].tobytes()), checked(_Repetition, fields).again)
        except ManifestError as error:
            raise ValueError(f"manifest: {error}") from error


@dataclass(frozen=True)
class _Measurement:
    """The fields of a packed evaluation."""

    client: str
    version: int
    rows: int
    error: ErrorSummary
    drifted: bool


@dataclass(frozen=True)
class _Training(_Measurement):
    """The fields of a packed update."""

    loss: float
    train_s: float


@dataclass(frozen=True, eq=False)
class Evaluation(_Message):
    """The reconstruction error of a version on a client's held-out rows."""

    client: str
    version: int
    """The version that was measured."""
    rows: int
    """Rows that the client trains on: its weight in a mean over clients."""
    error: ErrorSummary
    scores: ScoreSketch
    """Of the held-out rows."""
    drifted: bool
    """Whether the client's stream no longer looks as it did: it asks for training."""

    def _parts(self) -> tuple[Fields, Arrays]:
        return _fields(_Measurement, self), {_SCORES: np.frombuffer(self.scores.pack(), np.uint8)}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        return cls(**vars(checked(_Measurement, fields)), scores=_sketch(arrays))


@dataclass(frozen=True, eq=False)
class Update(Evaluation):
    """What one client learned: the difference from the version it was given, and that version's error."""

    loss: float
    """Mean training loss of the last epoch."""
    train_s: float
    difference: Weights

    def _parts(self) -> tuple[Fields, Arrays]:
        _, arrays = super()._parts()
        return _fields(_Training, self), arrays | {_DIFFERENCE + n: a for n, a in self.difference.items()}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        difference = {n.removeprefix(_DIFFERENCE): a for n, a in arrays.items() if n.startswith(_DIFFERENCE)}
        said = vars(checked(_Training, fields))
        return cls(**said, scores=_sketch(arrays), difference=difference)


def _fields(header: type[_Measurement], answer: Evaluation) -> Fields:
    named = {f.name: getattr(answer, f.name) for f in dataclasses.fields(header)}
    return {**named, "error": dataclasses.asdict(answer.error)}


def _sketch(arrays: Arrays) -> ScoreSketch:
    return ScoreSketch.unpack(arrays[_SCORES].tobytes())
