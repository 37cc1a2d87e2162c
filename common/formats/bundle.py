"""Named arrays and plain values as one block of bytes: a safetensors file, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

Arrays = Mapping[str, NDArray[Any]]

_FIELDS = "flockwatch"
T = TypeVar("T")


class BundleError(ValueError):
    """Bytes are not a bundle, or its fields are wrong; the message says what is wrong."""


def pack(fields: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Return bytes that hold `fields` (JSON values) and `arrays`; equal inputs give equal bytes.

    >>> unpack(pack({"version": 3}, {}))
    ({'version': 3}, {})
    """
    header = {_FIELDS: json.dumps(fields, sort_keys=True, allow_nan=False, separators=(",", ":"))}
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata=header)


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the fields and arrays of `pack`.

    Raises:
        BundleError: the bytes are cut short, damaged, or not a bundle.
    """
    try:
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        fields = json.loads(header["__metadata__"][_FIELDS])
    except SafetensorError as error:
        raise BundleError(f"not a bundle, or damaged: {error}") from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BundleError("safetensors without the fields of a bundle") from error
    if not isinstance(fields, dict):
        raise BundleError("the fields of a bundle are not a JSON object")
    return fields, arrays


def as_dataclass(kind: type[T], fields: Any) -> T:
    """Return the fields of a bundle as the dataclass `kind`, whose annotations each value must match.

    Raises:
        BundleError: a field is missing or of another type; the message names it.
    """
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    try:
        return adapter.validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise BundleError(f"'{name}': {problem['msg'].lower()}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
