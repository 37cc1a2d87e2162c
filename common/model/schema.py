"""The features of a federation: names, order, and a hash by which client and server compare them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from functools import cached_property

import msgspec

from common.bounds import MAX_FEATURE_NAME, FeatureNames
from common.display import shortened
from common.errors import UserError


class SchemaError(UserError):
    """Columns do not match the schema; the message names those that differ."""


def is_text(name: str) -> bool:
    r"""Return whether a name can be written as UTF-8: half of a surrogate pair cannot.

    >>> is_text("é"), is_text("\ud800")
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Schema(msgspec.Struct, frozen=True, dict=True, array_like=True, forbid_unknown_fields=True):
    """An ordered set of feature names.

    >>> Schema(("cpu", "memory")).align(["memory", "cpu"])
    [1, 0]
    """

    features: FeatureNames

    def __post_init__(self) -> None:
        if not self.features:
            raise SchemaError("a schema has no feature; expected at least one feature")
        if unfit := [name for name in self.features if len(name) > MAX_FEATURE_NAME or not is_text(name)]:
            raise SchemaError(
                f"{len(unfit)} names of features cannot be used, such as {shortened(ascii(unfit[0]), 60)}: "
                f"expected Unicode text of at most {MAX_FEATURE_NAME} characters"
            )
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
            if {_form(name) for name in missing} & {_form(name) for name in extra}:
                parts.append("some are the same letters in another Unicode form")
            raise SchemaError(
                f"columns differ from the federation's {len(self)} features: {'; '.join(parts)}"
            )
        return [columns.index(name) for name in self.features]


def _form(name: str) -> str:
    return unicodedata.normalize("NFKC", name)
