"""The format of messages: each is one block of bytes, because Flower sends each part of a message by itself.

A message is the number of the protocol in one byte, then the message as a MessagePack array, compressed by
Zstandard where that makes it smaller. Field names do not travel; arrays travel as raw bytes.

`Describe` and `Description` are the first messages of a connection, so a peer of any protocol number must be
able to read their protocol number. They are safetensors files without arrays, whose JSON metadata names the
message and the protocol, and holds the array of its fields (`common.formats.bundle`), compressed in the same
way.
"""

from __future__ import annotations

import base64
import re
from typing import Any, TypeVar, cast, get_args, overload

import msgspec
import numpy as np

from common.compression.zstd import MAGIC, ZstdError, compress, decompress
from common.formats import bundle
from common.formats.bundle import BundleError
from common.model.histogram import ScoreHistogram
from common.protocol.messages import (
    Describe,
    Description,
    Evaluation,
    Message,
    Update,
    VersionChange,
    VersionMissing,
    WholeVersion,
)

PROTOCOL = 7
"""Number of the protocol; both sides must have the same."""

REFUSED_HEADER = b"flockwatch-refused"
"""HTTP header that marks a refusal by the server's gateway, as opposed to one by SuperLink."""

RECORD, CONTENT = "flockwatch", "content"
"""A Flower message holds one record with one value: a packed message."""

MAX_COMPRESSED_BYTES = 64 * 1024
"""Larger messages are weights, which hardly shrink: they are not compressed.

Decompression therefore never needs more memory than this.
"""

Introduction = Describe | Description
TaskOrAnswer = Evaluation | Update | WholeVersion | VersionChange | VersionMissing

M = TypeVar("M", bound=Message)
N = TypeVar("N", bound=Message)

# The classes of messages by their numbers.
_KINDS: dict[Any, type[Message]] = {
    kind.__struct_config__.tag: kind for kind in (*get_args(Introduction), *get_args(TaskOrAnswer))
}

# The numbers of introductions by the names of their classes.
_INTRODUCTIONS = {kind.__name__: kind.__struct_config__.tag for kind in get_args(Introduction)}

# No safetensors file begins with this byte: there it is part of a length that is a multiple of 8.
_FIRST = bytes([PROTOCOL])


class ProtocolError(ValueError):
    """A message cannot be understood; the text names the message, the field, or the side that is too old."""


def pack(message: Message) -> bytes:
    """Return a message as bytes.

    >>> unpack(pack(Describe("no work")), Describe)
    Describe(refused='no work', window=None)
    """
    if isinstance(message, Update):
        message = message.encoded()
    if isinstance(message, Introduction):
        _, *fields = msgspec.to_builtins(message, enc_hook=_encode_value)
        header = {"message": type(message).__name__, "protocol": PROTOCOL, "fields": fields}
        return _compressed(bundle.pack(header, {}))
    return _FIRST + _compressed(_ENCODER.encode(message))


@overload
def unpack(content: bytes, kind: type[M], /) -> M: ...
@overload
def unpack(content: bytes, kind: type[M], other: type[N], /) -> M | N: ...
def unpack(content: bytes, *kinds: type[Message]) -> Message:
    """Return the message in bytes that were received.

    Args:
        content: Any bytes.
        kinds: Messages that may be received.

    Raises:
        ProtocolError: the bytes are damaged, another message, or of another protocol, or a field is outside
            its bounds.
    """
    expected = " or a ".join(kind.__name__ for kind in kinds)
    try:
        message = _decode_message(content)
    except (BundleError, ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a {expected}: {error}") from error
    if type(message) not in kinds:  # an update is an evaluation, but not where one is expected
        raise ProtocolError(f"expected a {expected}, received a {type(message).__name__}")
    return message


def _decode_message(content: bytes) -> Introduction | TaskOrAnswer:
    if content.startswith(_FIRST):
        body = _decompressed(content[len(_FIRST) :])
        try:
            message: TaskOrAnswer = _DECODER.decode(body)
            return message
        except msgspec.ValidationError as error:
            raise _named(error, msgspec.msgpack.decode(body)) from error
    header, _ = bundle.unpack(_decompressed(content))
    name, protocol, fields = (header.get(key) for key in ("message", "protocol", "fields"))
    if name is not None and protocol != PROTOCOL:
        raise ProtocolError(
            f"{name} of protocol {protocol}, but this program speaks {PROTOCOL}: upgrade the older side"
        )
    if not isinstance(name, str) or name not in _INTRODUCTIONS or not isinstance(fields, list):
        raise BundleError("neither a Describe nor a Description with its fields")
    introduction = [_INTRODUCTIONS[name], *fields]
    try:
        return cast(Introduction, msgspec.convert(introduction, Introduction, dec_hook=_decode_value))
    except msgspec.ValidationError as error:
        raise _named(error, introduction) from error


def _named(error: msgspec.ValidationError, fields: Any) -> ProtocolError | msgspec.ValidationError:
    """Return the error with the names of the message and the field; as it is if the kind is unknown.

    msgspec describes a field of an array by its index: `$[4][1]` is `error.mean` of an update.
    """
    problem, _, path = str(error).partition(" - at `$")
    number = fields[0] if isinstance(fields, list) and fields and isinstance(fields[0], int) else None
    kind = _KINDS.get(number)
    if kind is None or path.startswith("[0]"):
        return error
    name, struct, offset = "", cast("type[msgspec.Struct] | None", kind), 1
    for step in map(int, re.findall(r"\[(\d+)\]", path)):
        if struct is None:
            name += f"[{step}]"
            continue
        field = msgspec.structs.fields(struct)[step - offset]
        name += f".{field.name}"
        nested = (field.type, *get_args(field.type))
        struct = next((t for t in nested if isinstance(t, type) and issubclass(t, msgspec.Struct)), None)
        offset = 0
    return ProtocolError(f"{kind.__name__} is incomplete or wrong: {name[1:]}: {problem}")


def _compressed(content: bytes) -> bytes:
    if len(content) > MAX_COMPRESSED_BYTES:
        return content
    return min(content, compress(content), key=len)


def _decompressed(content: bytes) -> bytes:
    return decompress(content, MAX_COMPRESSED_BYTES) if content.startswith(MAGIC) else content


def _encode_value(value: Any) -> bytes:
    """Return a field that MessagePack does not have as bytes."""
    if isinstance(value, ScoreHistogram):
        return value.pack()
    return np.asarray(value, "<f8").tobytes()


def _decode_value(kind: Any, value: Any) -> Any:
    """Return the field of `_encode_value`; in the JSON of an introduction bytes are in base64."""
    if isinstance(value, str):
        value = base64.b64decode(value, validate=True)
    if not isinstance(value, bytes):
        raise TypeError(f"Expected `bytes`, got `{type(value).__name__}`")
    return ScoreHistogram.unpack(value) if kind is ScoreHistogram else np.frombuffer(value, "<f8")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_value)
_DECODER = msgspec.msgpack.Decoder(TaskOrAnswer, dec_hook=_decode_value)
