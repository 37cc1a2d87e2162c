"""The features of a federation: names, order, and a hash by which client and server compare them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import msgspec

from common.bounds import MAX_FEATURE_NAME, FeatureNames
from common.display import shortened
from common.errors import UserError

MAX_NAMED, MAX_SHOWN = 10, 60
"""Names in an error, and characters of each: the names are a client's, and may be 65,536."""


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
            twice = sorted(name for name, number in Counter(self.features).items() if number > 1)
            raise SchemaError(f"features named twice: {_listed(twice)}")

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
        position = {name: len(columns) - 1 - i for i, name in enumerate(reversed(columns))}
        own = frozenset(self.features)
        missing = [name for name in self.features if name not in position]
        extra = [name for name in columns if name not in own]
        if missing or extra:
            parts = [
                f"{word} {_listed(names)}"
                for word, names in (("missing", missing), ("extra", extra))
                if names
            ]
            if {_form(name) for name in missing} & {_form(name) for name in extra}:
                parts.append("some are the same letters in another Unicode form")
            raise SchemaError(
                f"columns differ from the federation's {len(self)} features: {'; '.join(parts)}"
            )
        return [position[name] for name in self.features]


def _listed(names: Sequence[str]) -> str:
    """Return the first names in quotes, shortened, and how many there are more."""
    shown = ", ".join(repr(shortened(name, MAX_SHOWN)) for name in names[:MAX_NAMED])
    return shown + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def _form(name: str) -> str:
    return unicodedata.normalize("NFKC", name)
