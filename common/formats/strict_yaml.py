"""YAML without duplicate keys, in which 1e-3 is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    >>> parse("{rate: 1e-3, days: [1, 2]}")
    {'rate': 0.001, 'days': [1, 2]}

    Raises:
        yaml.YAMLError: the text is not YAML, or sets a key twice.
        ValueError: it holds an impossible value, such as a day in month 13.
        RecursionError: it is nested too deeply.
    """
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  it is a SafeLoader


def dump(value: Any) -> str:
    """Return a YAML text that `parse` reads as the same value, with keys in their order.

    >>> print(dump({"rate": 1e5, "name": "1e5"}), end="")
    rate: 100000.0
    name: '1e5'
    """
    return str(yaml.dump(value, Dumper=_StrictDumper, sort_keys=False))


class _StrictLoader(yaml.SafeLoader):
    """Loader that refuses duplicate keys, and reads 1e-3 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; raises ConstructorError on a duplicate key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' is set twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """Dumper that quotes texts which the loader would read as numbers."""


for _kind in (_StrictLoader, _StrictDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
