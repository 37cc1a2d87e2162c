"""Decodes a line of a stream to the values of one event, or refuses it with a reason.

Nearly all lines of a stream are JSON objects with the same fields. They take the fast path: a parser that is
generated for these fields. Any other line takes the slow path (`SlowDecoder`), which knows all forms of an
event and learns the names of further fields; the parser is then generated anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from struct import Struct
from struct import error as StructError
from typing import Any

import msgspec

from client.data.streams.slow_decoding import MAX_KNOWN_FIELDS, KnownFields, SlowDecoder, Values
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

_MIN_MILLISECONDS = 1e11
"""Timestamps from here on are not in seconds (see `parse_seconds`)."""


class Decoder:
    r"""Decodes events of one schema: JSON objects by name, CSV lines by their header, JSON arrays by order.

    A feature that is absent, null, not finite or text is missing: NaN. Fields that are not features are
    ignored, and named once in the log. An event without the value of any feature is refused.

    Args:
        schema: The features, in the order in which their values are written.
        data: Names the columns that are not features.

    >>> decoder = Decoder(Schema(("cpu", "memory")), DataSettings())
    >>> row = bytearray(8)
    >>> decoder.decode(b'{"ts": 60, "memory": null, "cpu": true}', row, 0), Struct("2f").unpack(row)
    (60.0, (1.0, nan))
    """

    def __init__(self, schema: Schema, data: DataSettings) -> None:
        self.schema = schema
        self._row = Struct(f"={len(schema)}f")  # with native byte order, pack would not report an overflow
        self._slow = SlowDecoder(schema.features, data)
        self._known = self._slow.known
        self._parser, self._values = fast_parser(schema.features, self._known)

    @property
    def ignored(self) -> dict[str, str]:
        """The roles of the fields and columns that are not features, by name."""
        return self._slow.ignored

    @property
    def time(self) -> str | None:
        """The field or column with the time of the events so far."""
        return self._slow.time

    @property
    def header_problem(self) -> str | None:
        """The reason why the last CSV header does not fit the features; None if it fits."""
        return self._slow.csv.mismatch

    def decode(self, line: bytes, rows: Any, offset: int) -> float | None:
        """Write an event's values as float32 into a buffer; missing values are NaN.

        Args:
            line: The line, without its newline.
            rows: A writable buffer of bytes.
            offset: First byte of the event's row in `rows`.

        Returns:
            The event's timestamp in seconds since 1970; None without a readable timestamp.

        Raises:
            InvalidEventError: the line is not an event; the event's row in `rows` is undefined.
            NoEventError: the line is a header or a comment.
        """
        try:
            event = self._parser.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            values, time = self._decode_slowly(line)
            self._row.pack_into(rows, offset, *values)
            return parse_seconds(time)
        values = self._values(event)
        try:
            self._row.pack_into(rows, offset, *values)
        except (StructError, OverflowError):
            self._pack_incomplete(values, rows, offset)
        time = event.time_
        return time if type(time) is float and time < _MIN_MILLISECONDS else parse_seconds(time)

    def _decode_slowly(self, line: bytes) -> tuple[Sequence[float], Any]:
        """Return the values and the timestamp of any line; a learned field changes the parser."""
        try:
            return self._slow.decode(line)
        finally:
            if self._slow.known is not self._known:
                self._known = self._slow.known
                self._parser, self._values = fast_parser(self.schema.features, self._known)

    def _pack_incomplete(self, values: Values, rows: Any, offset: int) -> None:
        """Write values of which some are missing or text, or too large for a 32-bit float."""
        present = [math.nan if value is None else value for value in values]
        if any(value is not None for value in values):
            with suppress(StructError, OverflowError):
                self._row.pack_into(rows, offset, *present)
                return
        self._row.pack_into(rows, offset, *self._slow.json_numbers(values))


class _NoParser:
    """Parses no line, so that every line takes the slow path."""

    def decode(self, line: bytes) -> Any:
        raise msgspec.DecodeError


_NO_PARSER: Any = _NoParser()


def fast_parser(
    features: Sequence[str], known: KnownFields
) -> tuple[msgspec.json.Decoder[Any], Callable[[Any], Values]]:
    """Return a parser of JSON objects with the known fields, and a getter of the features' values.

    A feature may be missing or of another plain type: such a value cannot be packed as a float, and is
    converted then. An unknown field is an error, so that it is learned, until there are too many. Events
    within objects, and features with names that msgspec does not accept, are left to the slow path.

    Args:
        features: The features, in their order.
        known: The other fields.

    Returns:
        The parser, whose objects have the timestamp as `time_`; and the getter of the values in order.
    """
    if known.nested:
        return _NO_PARSER, lambda event: ()
    kinds = float | bool | str | None
    fields: list[Any] = [(f"f{i}", kinds, None) for i in range(len(features))]
    renamed = {f"f{i}": name for i, name in enumerate(features)}
    fields.append(("time_", Any, None))
    if known.time is not None:
        renamed["time_"] = known.time
    for i, name in enumerate(sorted(known.others - {known.time})):
        fields.append((f"ignored{i}", msgspec.Raw, msgspec.Raw(b"")))
        renamed[f"ignored{i}"] = name
    forbid = len(known.others) < MAX_KNOWN_FIELDS
    try:
        kind = msgspec.defstruct("Event", fields, rename=renamed, forbid_unknown_fields=forbid, gc=False)
    except ValueError:  # msgspec accepts no field name with quotes, backslashes or control characters
        return _NO_PARSER, lambda event: ()
    get = attrgetter(*(f"f{i}" for i in range(len(features))))
    return msgspec.json.Decoder(kind), get if len(features) > 1 else lambda event: (event.f0,)
