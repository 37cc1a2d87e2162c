"""Fields of JSON objects: names of values in objects within objects, and what a value is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 8
"""Depth to which the fields of objects within objects are read."""


def flat(event: Mapping[str, Any], depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the fields of an object, and for an object within it the fields of that, with dotted names.

    >>> flat({"name": "cpu", "fields": {"idle": 90, "user": 5}})
    {'name': 'cpu', 'fields.idle': 90, 'fields.user': 5}
    """
    fields: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, dict) and depth:
            for inner, leaf in flat(value, depth - 1).items():
                fields.setdefault(f"{name}.{inner}", leaf)
        else:
            fields[name] = value
    return fields


def kind_of_value(value: Any) -> str:
    """Return what a value is, for messages."""
    if isinstance(value, str):
        return f"text, such as {value[:40]!r}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "empty" if value is None else "not a feature"
