"""One version of the federation's model with all that scoring needs: weights, scaler, schema, hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from common.architecture import Architecture
from common.bundle import BundleError, pack, unpack
from common.moments import Moments
from common.schema import Schema
from common.weights import Weights, digest, is_finite, shapes

FORMAT = 1
_MOMENTS = ("mean", "m2", "minimum", "maximum")


class ManifestError(ValueError):
    """A manifest cannot be trusted: damaged, of another format, or not finite."""


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

    def __post_init__(self) -> None:
        if shapes(self.weights) != self.architecture.shapes:
            raise ManifestError(
                f"weights have shapes {shapes(self.weights)}, the architecture {self.architecture.shapes}"
            )
        if not is_finite(self.weights):
            raise ManifestError(f"weights of version {self.version} are not finite")

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything the manifest holds."""
        fields = json.dumps(self._fields(), sort_keys=True)
        return hashlib.sha256(f"{fields}{digest(self._arrays())}".encode()).hexdigest()

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
            if fields["format"] != FORMAT:
                raise ManifestError(f"format {fields['format']}; this program reads format {FORMAT}")
            manifest = cls(
                version=fields["version"],
                schema=Schema(tuple(fields["features"])),
                architecture=Architecture.parse(fields["architecture"]),
                weights={
                    n.removeprefix("weights/"): a for n, a in arrays.items() if n.startswith("weights/")
                },
                moments=Moments(fields["count"], *(arrays[f"moments/{name}"] for name in _MOMENTS)),
                settings=fields["settings"],
            )
        except BundleError as error:
            raise ManifestError(str(error)) from error
        except (KeyError, TypeError) as error:
            raise ManifestError(f"incomplete: {error}") from error
        if manifest.hash != fields["hash"]:
            raise ManifestError(f"hash is {manifest.hash[:12]}, the manifest says {fields['hash'][:12]}")
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
            "settings": self.settings,
        }

    def _arrays(self) -> dict[str, Any]:
        named = {f"weights/{name}": array for name, array in self.weights.items()}
        return named | {f"moments/{name}": np.asarray(getattr(self.moments, name)) for name in _MOMENTS}
