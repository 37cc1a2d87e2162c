"""A manifest: one version of the federation's model, with everything needed to score by it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from common.bounds import MAX_COUNT, MAX_TOTAL
from common.detectors.autoencoder import Autoencoder
from common.detectors.choice import AUTOENCODER
from common.detectors.contract import DetectorStateError, OwnDetector, WindowDetector
from common.detectors.ensemble import Ensemble, EnsembleState
from common.errors import UserError
from common.formats.bundle import Arrays, as_dataclass, pack, unpack
from common.model import earlier_format
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import LagCovariances
from common.model.leaf_counts import LeafCounts
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.version_settings import VersionSettings, parse_json
from common.model.weights import Architecture, Weights, digest, is_finite, shapes

FORMAT = 5
"""Number of the file format that is written and read."""
_EARLIER_FORMATS = (1, 2, 4)
_MOMENTS = ("mean", "m2", "minimum", "maximum", "within")
_MORE_MOMENTS = ("present", "step")
"""Arrays that a file has only if they are not empty."""


class ManifestError(UserError):
    """A manifest cannot be used: it is damaged, of another format, inconsistent or not finite."""


@dataclass(frozen=True)
class _ManifestHeader:
    """The fields of a packed manifest."""

    version: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    features: tuple[str, ...]
    architecture: Architecture
    count: Annotated[int, Field(ge=1, le=MAX_TOTAL)]
    settings: dict[str, Any]
    hash: str
    personalised: bool


@dataclass(frozen=True, eq=False)
class Manifest:
    """One version of the model: the fleet's, or one that a client has personalised for itself."""

    version: int
    """The number of the version, counted from 0."""
    schema: Schema
    architecture: Architecture
    weights: Weights
    moments: Moments
    """Moments of the fleet's training rows. In a personalised version: those that the client scales by."""
    settings: VersionSettings
    """The settings that the version was trained with."""
    scores: ScoreHistogram = field(default_factory=ScoreHistogram.empty)
    """The fleet's scores of held-out rows under an earlier version, usually the one before; may be empty."""
    residuals: Residuals = field(default_factory=Residuals)
    """The fleet's squared errors of the same rows, which weight the inputs in a score. In a personalised
    version: blended with the client's own."""
    personalised: bool = False
    """Whether a client has adapted the version to itself. If not, it is the fleet's, and its moments are not
    those of any machine."""
    ensemble: EnsembleState | None = None
    """The detectors that score (`detector.family`); None: the autoencoder alone. Only a personalised version
    has them."""
    covariances: LagCovariances | None = None
    """The fleet's covariances of scaled features, if clients send them. A personalised version has none."""
    leaf_counts: LeafCounts | None = None
    """The fleet's windows in the leaves of the trees of its settings, if clients send them; likewise."""

    def __post_init__(self) -> None:
        counts = {len(self.schema), self.architecture.features, len(self.moments.mean)}
        if len(counts) > 1:
            raise ManifestError(
                f"schema, architecture and moments have different numbers of features: {sorted(counts)}"
            )
        if shapes(self.weights) != self.architecture.shapes:
            raise ManifestError(
                f"weights have shapes {shapes(self.weights)}, expected {self.architecture.shapes}"
            )
        if self.residuals.count and len(self.residuals.squares) != self.architecture.inputs:
            raise ManifestError(
                f"residuals are for {len(self.residuals.squares)} inputs, expected {self.architecture.inputs}"
            )
        if self.covariances is not None:
            shape, expected = self.covariances.values.shape, self.architecture
            if shape != (expected.window, expected.features, expected.features):
                raise ManifestError(f"covariances have the shape {shape}, which is not the model's")
        if not is_finite(self.weights):
            raise ManifestError(f"weights of version {self.version} are not finite")
        try:
            self._own_detectors()
        except DetectorStateError as error:
            raise ManifestError(f"version {self.version}: {error}") from error

    @cached_property
    def precision(self) -> NDArray[np.float32]:
        """The factor for each input's squared error in a score, shape (inputs,)."""
        recency = self.architecture.recency_weights(self.settings.scoring.decay)
        return self.residuals.precision(self.architecture.inputs, self._step_error(recency)) * recency

    def autoencoder(self) -> Autoencoder:
        """Return the version's autoencoder, which one thread may use."""
        layers = self.architecture.layers(self.weights)
        return Autoencoder(layers, self.architecture.features, self.precision)

    def detector(self) -> WindowDetector:
        """Return what the version scores windows by, which one thread may use."""
        if self.ensemble is None:
            return self.autoencoder()
        members: dict[str, WindowDetector] = {**self._own_detectors()}
        if AUTOENCODER in self.ensemble.tails:
            members = {AUTOENCODER: self.autoencoder(), **members}
        return Ensemble(members, self.ensemble.tails, self.ensemble.weights)

    def _own_detectors(self) -> dict[str, OwnDetector]:
        if self.ensemble is None:
            return {}
        return self.ensemble.restored(self.architecture.inputs, self.architecture.features)

    @property
    def scaler(self) -> Scaler:
        """The scaler of a client by whose moments the version scales, as a personalised version does."""
        return Scaler.chosen(self.settings.scaling, self.moments, self.moments)

    def _step_error(self, recency: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the usual errors at which one step of an input's feature adds 1, a usual score, to a score.

        They are the lower bounds of usual errors: otherwise the smallest change of a nearly constant feature
        would be an alert (`common.model.moments`). A change that stays adds up over the events of a window.
        """
        std, window = self.moments.std, self.architecture.window
        known = (std > 0) & (self.settings.scaling.by != "none")
        steps = np.divide(self.moments.steps, std, out=np.zeros_like(std), where=known)
        error: NDArray[np.float64] = np.tile(np.square(steps), window) * (recency.max() / len(recency))
        return error

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything in the manifest, hexadecimal."""
        fields = json.dumps(self._fields(), sort_keys=True)
        return hashlib.sha256(f"{fields}{digest(self._arrays())}".encode()).hexdigest()

    def aligned(self, schema: Schema) -> Manifest:
        """Return the same version with its features in the order of `schema`.

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
            self, schema=schema, weights=weights, moments=self.moments.take(order),
            residuals=self.residuals.take(inputs),
            ensemble=None if self.ensemble is None else self.ensemble.take(inputs),
            covariances=None if self.covariances is None else self.covariances.take(order),
            leaf_counts=None,  # the trees are of the features in the fleet's order
        )  # fmt: skip

    def pack(self) -> bytes:
        """Return the content of the version's file, in the safetensors format."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        return pack({**self._fields(), "hash": self.hash}, self._arrays())

    @classmethod
    def unpack(cls, content: bytes) -> Manifest:
        """Return the manifest in the content of a version file.

        Raises:
            ManifestError: the content is damaged, incomplete, or of another format.
        """
        try:
            fields, arrays = unpack(content)
            number, own_hash = fields.get("format"), True
            if number == earlier_format.FORMAT:
                (fields, arrays), own_hash = earlier_format.upgraded(fields, arrays), False
            elif number != FORMAT:
                raise ManifestError(_format_problem(number))
            header = as_dataclass(_ManifestHeader, fields)
            more = {n: _float64(arrays, f"moments/{n}") for n in _MORE_MOMENTS if f"moments/{n}" in arrays}
            ensemble = _named("ensemble/", arrays)
            manifest = cls(
                version=header.version,
                schema=Schema(header.features),
                architecture=header.architecture,
                weights=_named("weights/", arrays),
                moments=Moments(
                    header.count, *(_float64(arrays, f"moments/{name}") for name in _MOMENTS), **more
                ),
                settings=_settings(header.settings),
                scores=ScoreHistogram.unpack(arrays["scores"].tobytes()),
                residuals=Residuals.unpacked(arrays["residuals"], arrays.get("residuals_present")),
                personalised=header.personalised,
                ensemble=EnsembleState.of_arrays(ensemble) if ensemble else None,
                covariances=_covariances(arrays),
                leaf_counts=_leaf_counts(arrays),
            )
        except ManifestError:
            raise
        except KeyError as error:
            raise ManifestError(f"the file is incomplete: {error} is missing") from error
        except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
            # From the bundle, the schema, the moments or the scores, or from values that do not fit together.
            raise ManifestError(str(error) or type(error).__name__) from error
        if own_hash and manifest.hash != header.hash:
            raise ManifestError(f"hash is {manifest.hash[:12]}, but the manifest says {header.hash[:12]}")
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
            "personalised": self.personalised,
        }

    def _arrays(self) -> dict[str, Any]:
        named: dict[str, Any] = {f"weights/{name}": array for name, array in self.weights.items()}
        named["residuals"] = self.residuals.packed()
        named["scores"] = np.frombuffer(self.scores.pack(), np.uint8)
        named |= {f"moments/{name}": np.asarray(getattr(self.moments, name)) for name in _MOMENTS}
        more = {f"moments/{name}": getattr(self.moments, name) for name in _MORE_MOMENTS}
        more["residuals_present"] = self.residuals.present
        named |= {name: array for name, array in more.items() if array.size}
        if self.covariances is not None:
            named["covariances"] = self.covariances.values
            named["covariances_count"] = np.array(self.covariances.count, np.int64)
        if self.leaf_counts is not None:
            named["leaf_counts"] = self.leaf_counts.packed()
            named["leaf_counts_count"] = np.array(self.leaf_counts.count, np.int64)
        if self.ensemble is not None:
            named |= {f"ensemble/{name}": array for name, array in self.ensemble.arrays().items()}
        return named


def _format_problem(number: object) -> str:
    problem = f"the file has format {number}; this program reads format {FORMAT}"
    if number in _EARLIER_FORMATS:
        problem += ". An earlier release wrote it: let the fleet train a new version"
    return problem


def _settings(values: dict[str, Any]) -> VersionSettings:
    try:
        return parse_json(json.dumps(values, sort_keys=True))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ManifestError(f"setting '{key}' cannot be read by this program: {problem['msg']}") from None


def _float64(arrays: Arrays, name: str) -> NDArray[np.float64]:
    """Return an array of numbers of this type; raises ManifestError for one of another type."""
    array = arrays[name]
    if array.dtype != np.float64:
        raise ManifestError(f"'{name}' has numbers of the type {array.dtype}, expected float64")
    return array


def _covariances(arrays: Arrays) -> LagCovariances | None:
    if "covariances" not in arrays:
        return None
    count = arrays["covariances_count"].astype(np.int64)
    return LagCovariances(count.item(), arrays["covariances"])


def _leaf_counts(arrays: Arrays) -> LeafCounts | None:
    if "leaf_counts" not in arrays:
        return None
    count = arrays["leaf_counts_count"].astype(np.int64)
    return LeafCounts.unpacked(count.item(), arrays["leaf_counts"])


def _named(prefix: str, arrays: Arrays) -> Weights:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}
