"""One version of the federation's model with all that scoring needs, from weights to a hash over them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, ValidationError

from common.errors import UserError
from common.formats.bundle import Arrays, checked, pack, unpack
from common.model.architecture import Architecture
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.sketch import ScoreSketch
from common.model.version_settings import VersionSettings
from common.model.weights import Weights, digest, is_finite, shapes

FORMAT = 3
_TWO_NETWORKS_FORMAT = 4
_MOMENTS = ("mean", "m2", "minimum", "maximum", "within")


class ManifestError(UserError):
    """A manifest cannot be trusted: damaged, of another format, or not finite."""


@dataclass(frozen=True)
class _Header:
    """The fields of a packed manifest."""

    version: NonNegativeInt
    features: tuple[str, ...]
    architecture: Architecture
    count: int
    settings: dict[str, Any]
    hash: str


@dataclass(frozen=True, eq=False)
class Manifest:
    """A global version, complete in itself.

    `moments` are the fleet's; each client makes its scaler of them, or of its own.
    """

    version: int
    schema: Schema
    architecture: Architecture
    weights: Weights
    moments: Moments
    settings: VersionSettings
    """The settings that the version was trained under."""
    scores: ScoreSketch = field(default_factory=ScoreSketch)
    """The fleet's scores of held-out normal rows, under an earlier version, mostly the last; may be empty."""
    residuals: Residuals = field(default_factory=Residuals)
    """What each input's error is weighed by: the fleet's on the same rows, or in a version that a client has
    made its own (`Edge.adopted`), that client's."""

    def __post_init__(self) -> None:
        counts = {len(self.schema), self.architecture.features, len(self.moments.mean)}
        if len(counts) > 1:
            raise ManifestError(f"schema, architecture and moments differ in their features: {counts}")
        if shapes(self.weights) != self.architecture.shapes:
            raise ManifestError(
                f"weights have shapes {shapes(self.weights)}, the architecture {self.architecture.shapes}"
            )
        if self.residuals.count and len(self.residuals.squares) != self.architecture.inputs:
            raise ManifestError(
                f"residuals of {len(self.residuals.squares)} inputs, the model has {self.architecture.inputs}"
            )
        if not is_finite(self.weights):
            raise ManifestError(f"weights of version {self.version} are not finite")

    @cached_property
    def precision(self) -> NDArray[np.float32]:
        """What the squared error of each input is multiplied by in a score; shape (inputs,)."""
        usual = self.residuals.precision(self.architecture.inputs)
        return usual * self.architecture.recency(self.settings.scoring.decay)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything the manifest holds."""
        fields = json.dumps(self._fields(), sort_keys=True)
        return hashlib.sha256(f"{fields}{digest(self._arrays())}".encode()).hexdigest()

    def aligned(self, schema: Schema) -> Manifest:
        """The same function of the same features in another order.

        Raises:
            SchemaError: a feature is missing or extra; the message names it.
        """
        if schema == self.schema:
            return self
        order = schema.align(self.schema.features)
        inputs = (np.arange(self.architecture.inputs).reshape(self.architecture.window, -1)[:, order]).ravel()
        last = len(self.architecture.hidden)
        weights = dict(self.weights)
        weights["dense_0/kernel"] = weights["dense_0/kernel"][inputs]
        for part in ("kernel", "bias"):
            weights[f"dense_{last}/{part}"] = weights[f"dense_{last}/{part}"][..., inputs]
        return replace(
            self, schema=schema, weights=weights, moments=self.moments.select(order),
            residuals=self.residuals.select(inputs),
        )  # fmt: skip

    def pack(self) -> bytes:
        """The manifest as the content of one safetensors file."""
        return pack({**self._fields(), "hash": self.hash}, self._arrays())

    @classmethod
    def unpack(cls, content: bytes) -> Manifest:
        """The manifest of `pack`.

        Raises:
            ManifestError: the content is damaged, incomplete, or of another format.
        """
        try:
            fields, arrays = unpack(content)
            if (number := fields.get("format")) != FORMAT:
                raise ManifestError(_format_problem(number))
            header = checked(_Header, fields)
            manifest = cls(
                version=header.version,
                schema=Schema(header.features),
                architecture=header.architecture,
                weights=_named("weights/", arrays),
                moments=Moments(header.count, *(arrays[f"moments/{name}"] for name in _MOMENTS)),
                settings=_settings(header.settings),
                scores=ScoreSketch.unpack(arrays["scores"].tobytes()),
                residuals=Residuals.unpacked(arrays["residuals"]),
            )
        except ManifestError:
            raise
        except KeyError as error:
            raise ManifestError(f"incomplete: no {error}") from error
        except ValueError as error:  # of the bundle, the schema, the moments, or the sketch
            raise ManifestError(str(error)) from error
        if manifest.hash != header.hash:
            raise ManifestError(f"hash is {manifest.hash[:12]}, the manifest says {header.hash[:12]}")
        return manifest

    def _fields(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version,
            "features": list(self.schema.features),
            "architecture": {
                **dataclasses.asdict(self.architecture),
                "hidden": list(self.architecture.hidden),
            },
            "count": self.moments.count,
            "settings": self.settings.values,
        }

    def _arrays(self) -> dict[str, Any]:
        named: dict[str, Any] = {f"weights/{name}": array for name, array in self.weights.items()}
        named["residuals"] = self.residuals.packed()
        named["scores"] = np.frombuffer(self.scores.pack(), np.uint8)
        named |= {f"moments/{name}": np.asarray(getattr(self.moments, name)) for name in _MOMENTS}
        return named


def _format_problem(number: object) -> str:
    if number == _TWO_NETWORKS_FORMAT:
        return (
            "the file holds two networks ('scoring.combine: scores'), which flockwatch no longer supports; "
            "use a version of one network"
        )
    return f"format {number}; this program reads format {FORMAT}"


def _settings(values: dict[str, Any]) -> VersionSettings:
    try:
        return VersionSettings.parse(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ManifestError(f"setting '{key}' is not one that this program reads: {problem['msg']}") from None


def _named(prefix: str, arrays: Arrays) -> Weights:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}
