"""Decodes a line of a stream to the values of one event, or refuses it with a reason."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from struct import Struct
from struct import error as StructError
from typing import Any

import msgspec

from client.data.cells import NumberAsTextError, is_missing, number_in
from client.data.columns import find_time
from client.data.streams.csv_lines import CsvReader, number_as_text
from client.data.streams.json_fields import flat, kind_of_value
from client.data.streams.refusals import MAX_EVENT_BYTES, InvalidEventError, NoEventError, listed
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

log = logging.getLogger(__name__)

MAX_KNOWN_FIELDS = 64
"""Fields that are not features and are known by name; of more, the names are not reported."""

_MIN_MILLISECONDS = 1e11
"""Timestamps from here on are not in seconds (see `parse_seconds`)."""
_LARGEST = 3.4028235677973366e38
"""Half a step above the largest 32-bit float: the first number that does not fit into one."""

Values = Sequence[Any]
"""The values of the features of one event, in their order, as the line has them."""


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
        self.ignored: dict[str, str] = {}
        """The roles of the fields and columns that are not features, by name."""
        self.unreadable: dict[str, str] = {}
        """A value of each feature that had other text than a number, by name. It counts as missing."""
        self.csv = CsvReader(schema.features, data)
        self._data = data
        self._names = schema.features
        self._row = Struct(f"={len(schema)}f")  # with native byte order, pack would not report an overflow
        self._timestamp: str | None = data.timestamp
        """Name of the field with the time; None until it is found."""
        self._known = {data.label, data.split, *data.ignore} - {*self._names}
        """Fields that are not features, besides the time."""
        self._nested = False
        """Whether events have their features in objects within the object."""
        self._object_decoder, self._values = self._fast_path()

    @property
    def time(self) -> str | None:
        """The field or column with the time of the events so far."""
        return self.csv.time or self._timestamp

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
            event = self._object_decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            values, time = self._slow_path(line)
            self._row.pack_into(rows, offset, *values)
            return parse_seconds(time)
        values = self._values(event)
        try:
            self._row.pack_into(rows, offset, *values)
        except (StructError, OverflowError):
            self._pack_incomplete(values, rows, offset)
        time = event.time_
        return time if type(time) is float and time < _MIN_MILLISECONDS else parse_seconds(time)

    def _pack_incomplete(self, values: Values, rows: Any, offset: int) -> None:
        """Write values of which some are missing or text, or too large for a 32-bit float."""
        present = [math.nan if value is None else value for value in values]
        if any(value is not None for value in values):
            with suppress(StructError, OverflowError):
                self._row.pack_into(rows, offset, *present)
                return
        self._row.pack_into(rows, offset, *self._numbers(values, self._number))

    def _fast_path(self) -> tuple[msgspec.json.Decoder[Any], Callable[[Any], Values]]:
        """Return a decoder of JSON objects with the known fields, and a getter of the values.

        A feature may be missing or of another plain type: such a value cannot be packed as a float, and is
        converted then. An unknown field is an error, so that it is named, until there are too many.
        """
        kinds = float | bool | str | None
        fields: list[Any] = [(f"f{i}", kinds, None) for i in range(len(self._names))]
        renamed = {f"f{i}": name for i, name in enumerate(self._names)}
        fields.append(("time_", Any, None))
        if self._timestamp is not None:
            renamed["time_"] = self._timestamp
        for i, name in enumerate(sorted(self._known - {self._timestamp})):
            fields.append((f"ignored{i}", msgspec.Raw, msgspec.Raw(b"")))
            renamed[f"ignored{i}"] = name
        forbid = len(self._known) < MAX_KNOWN_FIELDS
        try:
            kind = msgspec.defstruct("Event", fields, rename=renamed, forbid_unknown_fields=forbid, gc=False)
        except ValueError:  # msgspec accepts no field name with quotes, backslashes or control characters
            return _NOTHING, lambda event: ()
        get = attrgetter(*(f"f{i}" for i in range(len(self._names))))
        values = get if len(self._names) > 1 else lambda event: (event.f0,)
        return (_NOTHING if self._nested else msgspec.json.Decoder(kind)), values

    def _slow_path(self, line: bytes) -> tuple[Values, Any]:
        """Return the values and the timestamp of any event, or raise the reason why the line is none."""
        if len(line) > MAX_EVENT_BYTES:
            raise InvalidEventError("too_long", f"more than {MAX_EVENT_BYTES} bytes")
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidEventError("not_utf8", f"byte {error.start} is not UTF-8") from None
        if text.lstrip()[:1] not in ("{", "["):
            return self._csv_line(text)
        event = _parsed(text)
        if isinstance(event, list):
            if len(event) != len(self._names):
                reason = "missing_feature" if len(event) < len(self._names) else "extra_feature"
                raise InvalidEventError(reason, f"{len(event)} values, expected {len(self._names)}")
            return self._numbers(event, self._number), None
        return self._object(event)

    def _object(self, event: Mapping[str, Any]) -> tuple[Values, Any]:
        if not all(name in event for name in self._names):
            inner = flat(event)
            if sum(name in inner for name in self._names) > sum(name in event for name in self._names):
                event = inner
                if not self._nested:
                    self._nested = True
                    self._object_decoder, self._values = self._fast_path()
        values = self._numbers([event.get(name) for name in self._names], self._number)
        if unknown := event.keys() - self._known - set(self._names) - {self._timestamp}:
            self._learn({name: event[name] for name in event if name in unknown})
        return values, None if self._timestamp is None else event.get(self._timestamp)

    def _learn(self, fields: Mapping[str, Any]) -> None:
        """Take over the names of fields that are not features, and of the time if it is among them."""
        if self._timestamp is None:
            self._timestamp = find_time(fields, self._data)
        new = [name for name in fields if name != self._timestamp][: MAX_KNOWN_FIELDS - len(self._known)]
        self._ignore({name: kind_of_value(fields[name]) for name in new if not name.startswith("_")})
        self._known.update(new)
        if not self._nested:
            self._object_decoder, self._values = self._fast_path()

    def _ignore(self, fields: Mapping[str, str]) -> None:
        new = {
            name: what
            for name, what in fields.items()
            if name not in self.ignored and name not in self._known
        }
        self.ignored.update(new)
        if new:
            log.info("fields ignored names=%s", "; ".join(f"{name}: {what}" for name, what in new.items()))

    def _csv_line(self, text: str) -> tuple[Values, Any]:
        try:
            cells, time = self.csv.cells(text)
        except NoEventError:
            known = (self._data.label, self._data.split, *self._data.ignore, "")
            self._ignore({name: "not a feature" for name in self.csv.extras if name not in known})
            raise
        return self._numbers(cells, self.csv.number), time

    def _numbers(self, values: Values, convert: Callable[[Any, str], float | None]) -> list[float]:
        """Return values as numbers, NaN where one is missing; raise why there is no event if all are."""
        numbers = []
        for value, name in zip(values, self._names, strict=True):
            number = value if type(value) is float else convert(value, name)
            if number is None:
                self._note_unreadable(name, value)
            numbers.append(number if number is not None and abs(number) < _LARGEST else math.nan)
        if not any(number == number for number in numbers):
            raise self._without_values(values)
        return numbers

    def _number(self, value: Any, name: str) -> float | None:
        """Return a value of a JSON event as a number, NaN if it is missing, None if it is something else."""
        if value is None:
            return math.nan
        if isinstance(value, int | float):
            with suppress(OverflowError):
                return float(value)
            return math.inf
        if not isinstance(value, str):
            return None
        try:
            return number_in(value)
        except NumberAsTextError as error:
            raise number_as_text(name, str(error)) from None

    def _note_unreadable(self, name: str, value: Any) -> None:
        if name not in self.unreadable:
            self.unreadable[name] = repr(value)[:60]
            log.warning(
                "value is no number and counts as missing feature=%s value=%s", name, repr(value)[:60]
            )

    def _without_values(self, values: Values) -> InvalidEventError:
        """Return why an event without a number is refused."""
        for value, name in zip(values, self._names, strict=True):
            if isinstance(value, int | float):
                return InvalidEventError(
                    "not_finite", f"'{name}' is not a finite 32-bit float, nor is another value"
                )
            if isinstance(value, dict | list):
                return InvalidEventError(
                    "wrong_type", f"'{name}' is {kind_of_value(value)}, expected a number"
                )
        text = next((v for v in values if isinstance(v, str) and not is_missing(v)), None)
        if text is not None:
            return InvalidEventError("wrong_type", f"no feature has a number; one is {text[:40]!r}")
        return InvalidEventError("missing_feature", f"no value of any feature: {listed(self._names)}")


def _parsed(text: str) -> Any:
    """Return a JSON object or array; NaN and Infinity, which JSON does not have, are accepted.

    Raises:
        InvalidEventError: the text is not JSON.
    """
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError("not_json", str(error)) from None


class _Nothing:
    """Decodes no line, so that every line takes the slow path."""

    def decode(self, line: bytes) -> Any:
        raise msgspec.DecodeError


_NOTHING: Any = _Nothing()
