"""What all messages share: one block of bytes, squeezed where it helps, and a version that is checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from common.bundle import BundleError, checked, pack, unpack
from common.zstd import MAGIC, ZstdError, squeeze, unsqueeze

PROTOCOL = 5

RECORD, CONTENT = "flockwatch", "content"
"""A Flower message holds one record with one value: a message, packed."""

MOST_SQUEEZED = 64 * 1024
"""Larger messages are weights, which hardly shrink. So a squeezed one never needs more memory than this."""

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


class ProtocolError(ValueError):
    """A message cannot be understood; says which message, and whether one side is too old."""


@dataclass(frozen=True)
class Packed:
    """A message that packs its fields as JSON and its arrays as safetensors."""

    def pack(self) -> bytes:
        """The message as bytes."""
        fields, arrays = self._parts()
        content = pack({**fields, "message": type(self).__name__, "protocol": PROTOCOL}, arrays)
        return min(content, squeeze(content), key=len) if len(content) <= MOST_SQUEEZED else content

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """The message in `content`.

        Raises:
            ProtocolError: the bytes are damaged, another message, or of another protocol version.
        """
        try:
            fields, arrays = unpack(opened(content))
            protocol, name = fields.pop("protocol"), fields.pop("message")
        except (BundleError, ZstdError, KeyError) as error:
            raise ProtocolError(f"not a {cls.__name__}: {error}") from error
        if protocol != PROTOCOL:
            raise ProtocolError(
                f"{name} of protocol {protocol}, but this program speaks {PROTOCOL}: upgrade the older side"
            )
        if name != cls.__name__:
            raise ProtocolError(f"expected a {cls.__name__}, received a {name}")
        try:
            return cls._of_parts(fields, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{name} is incomplete or wrong: {error}") from error

    def _parts(self) -> tuple[Fields, Arrays]:
        return dataclasses.asdict(self), {}

    @classmethod
    def _of_parts(cls, fields: Fields, arrays: Arrays) -> Self:
        return checked(cls, fields)


def opened(content: bytes) -> bytes:
    """The bundle of a message, whether or not it was squeezed.

    Raises:
        ZstdError: it was, and cannot be opened, or is larger than any message that is.
    """
    return unsqueeze(content, MOST_SQUEEZED) if content.startswith(MAGIC) else content


def name_in(content: bytes) -> str:
    """Which message `content` says it is; empty if it says nothing that can be read."""
    try:
        return str(unpack(opened(content))[0].get("message", ""))
    except (BundleError, ZstdError):
        return ""
