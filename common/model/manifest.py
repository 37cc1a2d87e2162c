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
from pydantic import NonNegativeInt

from common.errors import UserError
from common.formats.bundle import Arrays, checked, pack, unpack
from common.model.architecture import Architecture
from common.model.ensemble import Ensemble
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.sketch import ScoreSketch
from common.model.tail import ScoreTail
from common.model.weights import Weights, digest, is_finite, shapes
from common.settings import ScoringSettings

FORMAT = 3
ENSEMBLE_FORMAT = 4
"""Of a version with two networks: programs that know only one refuse it by its number."""
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
    share: float | None = None


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
    settings: dict[str, Any]
    """The settings that the version was trained under, as plain values."""
    scores: ScoreSketch = field(default_factory=ScoreSketch)
    """The fleet's scores of held-out normal rows, under an earlier version, mostly the last; may be empty.

    In an ensemble: what its score would be if both networks scored an event as the fleet's did.
    """
    residuals: Residuals = field(default_factory=Residuals)
    """What each input's error is weighed by: the fleet's on the same rows, or in a version that a client has
    made its own (`Edge.adopted`), that client's."""
    ensemble: Ensemble | None = None
    """A second network beside `weights`, in a version that a client has made its own."""

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
        if self.ensemble is not None:
            try:
                _ = self.members
            except ManifestError as error:
                raise ManifestError(f"the ensemble's second network: {error}") from error

    @property
    def members(self) -> tuple[Manifest, ...]:
        """The networks as versions of one network each: of a plain version, itself."""
        if self.ensemble is None:
            return (self,)
        first = replace(self, ensemble=None)
        return first, replace(first, weights=self.ensemble.weights, residuals=self.ensemble.residuals)

    @cached_property
    def precision(self) -> NDArray[np.float32]:
        """What the squared error of each input is multiplied by in a score; shape (inputs,)."""
        # Versions from before there was a decay have a sketch of scores in which all events weighed alike.
        scoring = ScoringSettings.model_validate({"decay": 1.0, **self.settings.get("scoring", {})})
        usual = self.residuals.precision(self.architecture.inputs)
        return usual * self.architecture.recency(scoring.decay)

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
        ensemble = self.ensemble
        if ensemble is not None:
            second = self.members[1].aligned(schema)
            ensemble = replace(ensemble, weights=second.weights, residuals=second.residuals)
        return replace(
            self, schema=schema, weights=weights, moments=self.moments.select(order),
            residuals=self.residuals.select(inputs), ensemble=ensemble,
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
            if (found := fields.get("format")) not in (FORMAT, ENSEMBLE_FORMAT):
                raise ManifestError(
                    f"format {found}; this program reads formats {FORMAT} and {ENSEMBLE_FORMAT}"
                )
            header = checked(_Header, fields)
            manifest = cls(
                version=header.version,
                schema=Schema(header.features),
                architecture=header.architecture,
                weights=_named("weights/", arrays),
                moments=Moments(header.count, *(arrays[f"moments/{name}"] for name in _MOMENTS)),
                settings=header.settings,
                scores=ScoreSketch.unpack(arrays["scores"].tobytes()),
                residuals=Residuals.unpacked(arrays["residuals"]),
                ensemble=_second(header, arrays) if found == ENSEMBLE_FORMAT else None,
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
        fields = {
            "format": FORMAT,
            "version": self.version,
            "features": list(self.schema.features),
            "architecture": {
                **dataclasses.asdict(self.architecture),
                "hidden": list(self.architecture.hidden),
            },
            "count": self.moments.count,
            "settings": self.settings,
        }
        if self.ensemble is not None:
            fields |= {"format": ENSEMBLE_FORMAT, "share": self.ensemble.share}
        return fields

    def _arrays(self) -> dict[str, Any]:
        named: dict[str, Any] = {f"weights/{name}": array for name, array in self.weights.items()}
        named["residuals"] = self.residuals.packed()
        named["scores"] = np.frombuffer(self.scores.pack(), np.uint8)
        named |= {f"moments/{name}": np.asarray(getattr(self.moments, name)) for name in _MOMENTS}
        if (second := self.ensemble) is not None:
            named |= {f"second/weights/{name}": array for name, array in second.weights.items()}
            named["second/residuals"] = second.residuals.packed()
            named["tails"] = np.stack([tail.limits for tail in second.tails])
        return named


def _second(header: _Header, arrays: Arrays) -> Ensemble:
    """The ensemble of a packed manifest.

    Raises:
        KeyError, ValueError: a part of it is missing, or is not such.
    """
    if header.share is None:
        raise KeyError("share")
    tails = arrays["tails"]
    if tails.shape[:1] != (2,):
        raise ValueError(f"'tails' has shape {tails.shape}; expected that of two networks")
    return Ensemble(
        _named("second/weights/", arrays),
        Residuals.unpacked(arrays["second/residuals"]),
        header.share,
        (ScoreTail(tails[0]), ScoreTail(tails[1])),
    )


def _named(prefix: str, arrays: Arrays) -> Weights:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}
