"""Decodes a line of a stream to the values of one event, or refuses it with a reason."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from struct import Struct
from typing import Any

import msgspec

from client.data.stream_schema import may_be_feature
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

MAX_BYTES = 1 << 20
"""Size of the longest event."""

REASONS = (
    "too_long",
    "not_utf8",
    "not_json",
    "wrong_type",
    "number_as_text",
    "missing_feature",
    "extra_feature",
    "not_finite",
)
"""Reasons for which a line is refused."""

_MIN_MILLISECONDS = 1e11
"""Timestamps from here on are not in seconds (see `parse_seconds`)."""


class InvalidEventError(ValueError):
    """A line is not an event of this stream. `reason` is one of `REASONS`; the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class HeaderLineError(Exception):
    """A CSV line names the columns of the lines after it."""


class Decoder:
    r"""Decodes events of one schema: JSON objects by name, JSON arrays and CSV lines by order.

    A CSV line that names all features is a header: it sets the order of the columns from then on. Columns
    that are never features (label, split, timestamp, `data.ignore`, a leading underscore) are optional.

    Args:
        schema: The features, in the order in which their values are written.
        data: Names the columns that are not features.

    >>> decoder = Decoder(Schema(("cpu", "memory")), DataSettings())
    >>> row = bytearray(8)
    >>> decoder.decode(b'{"ts": 60, "memory": 2, "cpu": 0.5}', row, 0), row == Struct("2f").pack(0.5, 2)
    (60.0, True)
    """

    def __init__(self, schema: Schema, data: DataSettings) -> None:
        self.schema = schema
        self._data = data
        self._names = schema.features
        self._row = Struct(f"={len(schema)}f")  # with native byte order, pack would not report an overflow
        self._timestamp = data.timestamp
        self._columns = len(schema)
        """Number of cells in a CSV line."""
        self._order: list[int] | None = None
        """Column of each feature in a CSV line; None before a header: the order of the schema."""
        self._time_column: int | None = None
        self._object_decoder, self._values = self._fast_path()

    def decode(self, line: bytes, rows: Any, offset: int) -> float | None:
        """Write an event's values as float32 into a buffer.

        Args:
            line: The line, without its newline.
            rows: A writable buffer of bytes.
            offset: First byte of the event's row in `rows`.

        Returns:
            The event's timestamp in seconds since 1970; None without a readable timestamp.

        Raises:
            InvalidEventError: the line is not an event; the event's row in `rows` is undefined.
            HeaderLineError: the line names the columns.
        """
        try:
            event = self._object_decoder.decode(line)
            self._row.pack_into(rows, offset, *self._values(event))
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError, RecursionError):
            values, time = self._slow_path(line)
            try:
                self._row.pack_into(rows, offset, *values)
            except OverflowError:
                raise InvalidEventError(
                    "not_finite", f"{self._largest(values)} is too large for a 32-bit float"
                ) from None
            return parse_seconds(time)
        time = event.time_
        return time if type(time) is float and time < _MIN_MILLISECONDS else parse_seconds(time)

    def _fast_path(self) -> tuple[msgspec.json.Decoder[Any], Callable[[Any], Sequence[float]]]:
        """Return a decoder of JSON objects with exactly the known fields, and a getter of the values."""
        fields: list[Any] = [(f"f{i}", float) for i in range(len(self._names))]
        renamed = {f"f{i}": name for i, name in enumerate(self._names)} | {"time_": self._timestamp}
        fields.append(("time_", Any, None))
        ignored = {self._data.label, self._data.split, *self._data.ignore} - {*self._names, self._timestamp}
        for i, name in enumerate(sorted(ignored)):
            fields.append((f"ignored{i}", Any, None))
            renamed[f"ignored{i}"] = name
        kind = msgspec.defstruct("Event", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        get = attrgetter(*(f"f{i}" for i in range(len(self._names))))
        values = get if len(self._names) > 1 else lambda event: (event.f0,)
        return msgspec.json.Decoder(kind), values

    def _slow_path(self, line: bytes) -> tuple[Sequence[float], Any]:
        """Return the values and the timestamp of any event, or raise the reason why the line is none."""
        if len(line) > MAX_BYTES:
            raise InvalidEventError("too_long", f"more than {MAX_BYTES} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InvalidEventError("not_utf8", f"byte {error.start} is not UTF-8") from None
        start = text.lstrip()[:1]
        if start not in ("{", "["):
            return self._csv_line(text)
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _json_error(text, str(error)) from None
        if isinstance(event, list):
            return self._array(event), None
        return self._object(event), event.get(self._timestamp)

    def _object(self, event: dict[str, Any]) -> list[float]:
        if missing := [name for name in self._names if event.get(name) is None]:
            raise InvalidEventError("missing_feature", f"no {_listed(missing)}")
        self._refuse_extra(list(event))
        return [_number(event[name], name) for name in self._names]

    def _array(self, event: Sequence[Any]) -> list[float]:
        self._check_length(len(event), len(self._names))
        return [_number(value, name) for value, name in zip(event, self._names, strict=True)]

    def _csv_line(self, text: str) -> tuple[Sequence[float], Any]:
        try:
            cells = next(csv.reader([text], skipinitialspace=True, strict=True))
        except (csv.Error, StopIteration):
            raise _not_csv(text) from None
        cells = [cell.strip() for cell in cells]
        if set(self._names) <= set(cells):
            self._read_header(cells)
            raise HeaderLineError
        if self._columns > 1 and len(cells) <= 1:
            raise _not_csv(text)
        self._check_length(len(cells), self._columns)
        order = self._order if self._order is not None else range(len(self._names))
        values = [_cell(cells[i], name) for i, name in zip(order, self._names, strict=True)]
        return values, None if self._time_column is None else cells[self._time_column]

    def _read_header(self, cells: list[str]) -> None:
        self._refuse_extra(cells)
        self._order = [cells.index(name) for name in self._names]
        self._columns = len(cells)
        self._time_column = cells.index(self._timestamp) if self._timestamp in cells else None

    def _refuse_extra(self, names: Sequence[str]) -> None:
        features = set(self._names)
        if extra := [name for name in names if name not in features and may_be_feature(name, self._data)]:
            raise InvalidEventError("extra_feature", f"{_listed(extra)} is not a feature; see data.ignore")

    @staticmethod
    def _check_length(length: int, expected: int) -> None:
        if length != expected:
            reason = "missing_feature" if length < expected else "extra_feature"
            raise InvalidEventError(reason, f"{length} values, expected {expected}")

    def _largest(self, values: Sequence[float]) -> str:
        value, name = max(zip(values, self._names, strict=True), key=lambda pair: abs(pair[0]))
        return f"'{name}', {value:g},"


def _number(value: Any, name: str) -> float:
    """Return a value of a JSON event as a finite number, or raise why it is none."""
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise InvalidEventError("not_finite", f"'{name}' is not finite")
    if value is None:
        raise InvalidEventError("missing_feature", f"no '{name}'")
    if isinstance(value, str):
        reason = "number_as_text" if _is_number(value) else "wrong_type"
        raise InvalidEventError(reason, f"'{name}' is the text {value[:40]!r}, expected a number")
    raise InvalidEventError("wrong_type", f"'{name}' is {type(value).__name__}, expected a number")


def _cell(text: str, name: str) -> float:
    """Return a cell of a CSV line as a finite number, or raise why it is none."""
    if not text:
        raise InvalidEventError("missing_feature", f"no '{name}'")
    if not _is_number(text):
        raise InvalidEventError("wrong_type", f"'{name}' is {text[:40]!r}, expected a number")
    return _number(float(text), name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python alone allows underscores between digits


def _json_error(text: str, problem: str) -> InvalidEventError:
    """Return why text is not JSON: `not_finite` for NaN and Infinity, which Python's reader accepts."""
    constants = ["a number out of range"] if "out of range" in problem else []
    with suppress(ValueError, RecursionError):
        json.loads(text, parse_constant=constants.append)
        if constants:
            return InvalidEventError("not_finite", f"{constants[0]} is not finite")
    return InvalidEventError("not_json", problem)


def _not_csv(text: str) -> InvalidEventError:
    return InvalidEventError("not_json", f"neither JSON nor a line of CSV: {text[:40]!r}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:40]}'" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
