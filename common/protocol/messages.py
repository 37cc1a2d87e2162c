"""The messages of the protocol: what the server asks and what a client answers.

| Flower message type | request | reply |
| --- | --- | --- |
| query | `Describe` | `Description` |
| train | `WholeVersion` or `VersionChange` (`common.protocol.tasks`) | `Update` or `VersionMissing` |
| evaluate | the same | `Evaluation` or `VersionMissing` |

`common.protocol.wire` turns messages into bytes and back. The types of the fields hold their bounds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from common.bounds import (
    MAX_CODECS,
    ClientName,
    CodecName,
    Count,
    NonNegative,
    PositiveCount,
    Seconds,
    Serial,
    Text,
)
from common.compression.choice import NONE, STATELESS_CODECS, Block
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.sketch import ScoreSketch
from common.model.weights import Shapes, Weights
from common.protocol.traffic import Traffic


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base class of all messages. A message travels as an array: the number of its kind, then its fields."""


class Describe(Message, tag=1, frozen=True):
    """Asks a client who it is and what its features look like."""

    refused: Text | None = None
    """Why the server has no work for this client; None if it is welcome."""


class Description(Message, tag=2, frozen=True, eq=False):
    """A client's name, its features, and their moments over the rows that it trains on."""

    client: ClientName
    instance: Annotated[str, Meta(max_length=64)]
    """A random id kept in the client's state folder: distinguishes two clients of the same name."""
    schema: Schema
    moments: Moments
    inline: bool
    """Whether the client accepts messages with their content inside; a resident client does."""
    drifted: bool = False
    """Whether the client's stream has drifted, so that it asks for training."""
    codecs: Annotated[tuple[CodecName, ...], Meta(max_length=MAX_CODECS)] = STATELESS_CODECS
    """Names of the codecs that the client can encode and decode."""
    held: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Hash of the model version that the client holds, from which changes may start; empty: none."""

    def __post_init__(self) -> None:
        if len(self.moments.mean) != len(self.schema):
            raise ValueError(f"{len(self.moments.mean)} moments of {len(self.schema)} features")


class Evaluation(Message, tag=3, frozen=True, eq=False):
    """The reconstruction error of a model version on a client's held-out rows."""

    client: ClientName
    version: Count
    """The version that was evaluated."""
    rows: PositiveCount
    """Rows that the client trains on: its weight in a mean over clients."""
    error: ErrorSummary
    scores: ScoreSketch
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
    """Trained minus given weights. It travels encoded, as `block`: empty in a message that was received."""
    serial: Serial = 0
    """Number by which the server reports later whether it used this update; 0: nothing was left out of it."""
    block: Block | None = None
    """The encoded difference; None before it is encoded and after it was decoded."""

    def encoded(self) -> Update:
        """Return the update as it travels: with a block (exact if there was none), no difference."""
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
