"""The features of a federation: names, order, and a hash by which client and server compare them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

import msgspec

from common.bounds import FeatureNames
from common.errors import UserError


class SchemaError(UserError):
    """Columns do not match the schema; the message names those that differ."""


class Schema(msgspec.Struct, frozen=True, dict=True, array_like=True, forbid_unknown_fields=True):
    """An ordered set of feature names.

    >>> Schema(("cpu", "memory")).align(["memory", "cpu"])
    [1, 0]
    """

    features: FeatureNames

    def __post_init__(self) -> None:
        if not self.features:
            raise SchemaError("a schema has no feature; expected at least one feature")
        if len(set(self.features)) < len(self.features):
            twice = sorted({name for name in self.features if self.features.count(name) > 1})
            raise SchemaError(f"features named twice: {', '.join(twice)}")

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of a SHA-256 over names and order."""
        return hashlib.sha256(json.dumps(self.features).encode()).hexdigest()[:16]

    def align(self, columns: Sequence[str]) -> list[int]:
        """Return the position of each feature in `columns`.

        `rows[:, schema.align(columns)]` has its columns in the order of the schema.

        Raises:
            SchemaError: a feature is missing, or a column is not a feature.
        """
        missing = [name for name in self.features if name not in columns]
        extra = [name for name in columns if name not in self.features]
        if missing or extra:
            parts = [
                f"{word} {', '.join(map(repr, names))}"
                for word, names in (("missing", missing), ("extra", extra))
                if names
            ]
            raise SchemaError(
                f"columns differ from the federation's {len(self)} features: {'; '.join(parts)}"
            )
        return [columns.index(name) for name in self.features]
