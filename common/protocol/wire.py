"""What all messages share: one block of bytes, squeezed where it helps, and a version that is checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from common.formats.bundle import BundleError, checked, pack, unpack
from common.formats.zstd import MAGIC, ZstdError, compress, decompress

PROTOCOL = 5

REFUSED_HEADER = b"flockwatch-refused"
"""HTTP header that marks a refusal by the server's gateway, as opposed to one by SuperLink."""

RECORD, CONTENT = "flockwatch", "content"
"""A Flower message holds one record with one value: a message, packed."""

MAX_COMPRESSED_BYTES = 64 * 1024
"""Larger messages are weights, which hardly shrink. So a squeezed one never needs more memory than this."""

ZSTD_DICTIONARY = b"".join([
    rb'{"__metadata__":{"flockwatch":"{\"again\": 0, \"hash\": \"\", \"message\": \"Change\", ',
    rb'\"protocol\": 5, \"steps\": [[1, \"ternary:0.1\"]], \"terms\": {\"codec\": \"ternary:0.1\", ',
    rb'\"keep\": true, \"scores\": false, \"used\": [], \"waiting\": []}, \"version\": 1}"},"step/1":',
    rb'{"dtype":"U8","shape":[2',
    rb'{"__metadata__":{"flockwatch":"{\"client\": \"client-1\", \"codec\": \"ternary:0.1\", ',
    rb'\"drifted\": false, \"error\": {\"count\": 1, \"max\": 0.0, \"mean\": 0.0, \"p50\": 0.0, ',
    rb'\"p95\": 0.0, \"p99\": 0.0}, \"loss\": 0.0, \"message\": \"Update\", \"protocol\": 5, \"rows\": 1, ',
    rb'\"serial\": 1, \"traffic\": {\"decode_s\": 0.0, \"encode_s\": 0.0, \"received_bytes\": 1, ',
    rb'\"replies_bytes\": 1, \"sent_bytes\": 1, \"timed_bytes\": 0, \"timed_s\": 0.0}, \"train_s\": 0.0, ',
    rb'\"version\": 1}"},"block":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},',
    rb'"scores":{"dtype":"U8","shape":[8],"data_offsets":[2,10]}}      ',
])  # fmt: skip
"""How changes and updates are worded: what they say so need not be sent. Part of the protocol."""

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


class ProtocolError(ValueError):
    """A message cannot be understood; says which message, and whether one side is too old."""


@dataclass(frozen=True)
class Packed:
    """A message that packs its fields as JSON and its arrays as safetensors."""

    introduces: ClassVar[bool] = False
    """Whether it is among the first that two sides exchange: a side of another protocol shall read it too."""

    def pack(self) -> bytes:
        """The message as bytes."""
        fields, arrays = self._parts()
        content = pack({**fields, "message": type(self).__name__, "protocol": PROTOCOL}, arrays)
        if len(content) > MAX_COMPRESSED_BYTES:
            return content
        return min(content, compress(content, b"" if self.introduces else ZSTD_DICTIONARY), key=len)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """The message in `content`.

        Raises:
            ProtocolError: the bytes are damaged, another message, or of another protocol version.
        """
        try:
            fields, arrays = unpack(decompressed(content))
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


def decompressed(content: bytes) -> bytes:
    """The bundle of a message, whether or not it was squeezed.

    Raises:
        ZstdError: it was, and cannot be opened, or is larger than any message that is.
    """
    return (
        decompress(content, MAX_COMPRESSED_BYTES, ZSTD_DICTIONARY) if content.startswith(MAGIC) else content
    )


def name_in(content: bytes) -> str:
    """Which message `content` says it is; empty if it says nothing that can be read."""
    try:
        return str(unpack(decompressed(content))[0].get("message", ""))
    except (BundleError, ZstdError):
        return ""
