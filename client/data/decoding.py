"""From a line of a stream to the values of one event, or to the reason why it is none."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import attrgetter
from struct import Struct
from typing import Any

import msgspec

from common.model.schema import Schema
from common.settings import DataSettings

MAX_BYTES = 1 << 20
"""Of one event."""

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
"""Why an event may be refused."""

_NUMBER = (int, float)


class InvalidEventError(ValueError):
    """A line is no event of this stream; `reason` is one of `REASONS`, the message names what is wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Decoder:
    r"""Reads events of one schema: JSON objects by name, JSON arrays and CSV by order.

    A CSV line that names all features is a header, and gives the order from then on. Columns that are never
    features (label, split, timestamp, `data.ignore`, a leading underscore) may be there or not.

    >>> decoder = Decoder(Schema(("cpu", "memory")), DataSettings())
    >>> row = bytearray(8)
    >>> decoder.decode(b'{"ts": 60, "memory": 2, "cpu": 0.5}', row, 0), row == Struct("2f").pack(0.5, 2)
    (60.0, True)
    """

    def __init__(self, schema: Schema, data: DataSettings) -> None:
        self.schema = schema
        self._names = schema.features
        self._row = Struct(f"={len(schema)}f")  # not native: that lets overflow pass
        self._timestamp = data.timestamp
        self._ignored = {data.label, data.split, data.timestamp, *data.ignore} - set(self._names)
        self._order: list[int] | None = None
        """Where each feature stands in a CSV line, once a header has said so."""
        self._columns = len(schema)
        self._time_column: int | None = None
        self._object, self._values = self._quick()

    def decode(self, line: bytes, rows: Any, offset: int) -> float | None:
        """Write an event's values as float32 into the buffer `rows`, from byte `offset` on.

        Returns:
            The event's own time in seconds since 1970; None where it names none.

        Raises:
            Refused: the line is no event; the buffer may hold anything at that place.
            Header: the line names columns.
        """
        try:
            event = self._object.decode(line)
            self._row.pack_into(rows, offset, *self._values(event))
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError, RecursionError):
            values, time = self._slowly(line)
            try:
                self._row.pack_into(rows, offset, *values)
            except OverflowError:
                raise InvalidEventError(
                    "not_finite", f"{self._largest(values)} is beyond a 32-bit number"
                ) from None
            return seconds(time)
        time = event.time_
        return time if type(time) is float and time < 1e11 else seconds(time)

    def _quick(self) -> tuple[msgspec.json.Decoder[Any], Callable[[Any], Sequence[float]]]:
        """A decoder of objects that hold what they should, and the values of one in order."""
        fields: list[Any] = [(f"f{i}", float) for i in range(len(self._names))]
        renamed = {f"f{i}": name for i, name in enumerate(self._names)} | {"time_": self._timestamp}
        fields.append(("time_", Any, None))
        for i, name in enumerate(sorted(self._ignored - {self._timestamp})):
            fields.append((f"ignored{i}", Any, None))
            renamed[f"ignored{i}"] = name
        kind = msgspec.defstruct("Event", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        get = attrgetter(*(f"f{i}" for i in range(len(self._names))))
        values = get if len(self._names) > 1 else lambda event: (event.f0,)
        return msgspec.json.Decoder(kind), values

    def _slowly(self, line: bytes) -> tuple[Sequence[float], Any]:
        """The values and the time of what is no plain object, or why it is no event."""
        if len(line) > MAX_BYTES:
            raise InvalidEventError("too_long", f"more than {MAX_BYTES} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InvalidEventError("not_utf8", f"byte {error.start} is not UTF-8") from None
        start = text.lstrip()[:1]
        if start not in ("{", "["):
            return self._table_line(text)
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _not_json(text, str(error)) from None
        if isinstance(event, list):
            return self._in_order(event, len(self._names)), None
        return self._by_name(event), event.get(self._timestamp)

    def _by_name(self, event: dict[str, Any]) -> list[float]:
        if missing := [name for name in self._names if event.get(name) is None]:
            raise InvalidEventError("missing_feature", f"no {_listed(missing)}")
        names = set(self._names)
        extra = [n for n in event if n not in names and n not in self._ignored and not n.startswith("_")]
        if extra:
            raise InvalidEventError("extra_feature", f"{_listed(extra)} is no feature; see data.ignore")
        return [_number(event[name], name) for name in self._names]

    def _in_order(self, event: Sequence[Any], expected: int) -> list[float]:
        if len(event) != expected:
            reason = "missing_feature" if len(event) < expected else "extra_feature"
            raise InvalidEventError(reason, f"{len(event)} values, expected {expected}")
        return [_number(value, name) for value, name in zip(event, self._names, strict=True)]

    def _table_line(self, text: str) -> tuple[Sequence[float], Any]:
        try:
            cells = next(csv.reader([text], skipinitialspace=True, strict=True))
        except (csv.Error, StopIteration):
            raise InvalidEventError("not_json", f"neither JSON nor a line of CSV: {text[:40]!r}") from None
        cells = [cell.strip() for cell in cells]
        if set(self._names) <= set(cells):
            self._read_header(cells)
            raise HeaderLine
        if len(cells) != self._columns:
            if self._columns > 1 and len(cells) <= 1:
                raise InvalidEventError("not_json", f"neither JSON nor a line of CSV: {text[:40]!r}")
            reason = "missing_feature" if len(cells) < self._columns else "extra_feature"
            raise InvalidEventError(reason, f"{len(cells)} values, expected {self._columns}")
        order = self._order if self._order is not None else range(len(self._names))
        values = [_cell(cells[i], name) for i, name in zip(order, self._names, strict=True)]
        return values, None if self._time_column is None else cells[self._time_column]

    def _read_header(self, cells: list[str]) -> None:
        names = set(self._names) | self._ignored
        extra = [n for n in cells if n not in names and not n.startswith("_")]
        if extra:
            raise InvalidEventError("extra_feature", f"{_listed(extra)} is no feature; see data.ignore")
        self._order = [cells.index(name) for name in self._names]
        self._columns = len(cells)
        self._time_column = cells.index(self._timestamp) if self._timestamp in cells else None

    def _largest(self, values: Sequence[float]) -> str:
        value, name = max(zip(values, self._names, strict=True), key=lambda pair: abs(pair[0]))
        return f"'{name}', {value:g},"


class HeaderLine(Exception):
    """A line names the columns of those after it."""


def features(line: bytes, data: DataSettings) -> Schema | None:
    """The schema that a stream's JSON object suggests: its numbers, by name; None if it is no such object."""
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    special = {data.label, data.split, data.timestamp, *data.ignore}
    found = [
        name
        for name, value in event.items()
        if type(value) in _NUMBER and name not in special and not name.startswith("_")
    ]
    return Schema(tuple(found)) if found else None


def seconds(time: Any) -> float | None:
    """Seconds since 1970 of a time stamp: a number of seconds, ms, us or ns, or ISO 8601 (UTC if silent).

    >>> seconds(1.5), seconds(1_700_000_000_000), seconds("2023-11-14T22:13:20Z"), seconds("noon")
    (1.5, 1700000000.0, 1700000000.0, None)
    """
    if isinstance(time, str):
        try:
            time = float(time)
        except ValueError:
            try:
                moment = datetime.fromisoformat(time)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                return None
    if type(time) not in _NUMBER or not abs(time) < 1e20:  # a bool is no time
        return None
    value = float(time)
    for limit, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):
        if abs(value) >= limit:
            return value / unit
    return value


def _number(value: Any, name: str) -> float:
    if type(value) in _NUMBER:
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
    return "_" not in text  # which Python allows between digits, and nobody else


def _not_json(text: str, problem: str) -> InvalidEventError:
    """Why text is not JSON: Python's own reader knows NaN and Infinity, which JSON does not."""
    found = ["a number out of range"] if "out of range" in problem else []
    with suppress(ValueError, RecursionError):
        json.loads(text, parse_constant=found.append)
        if found:
            return InvalidEventError("not_finite", f"{found[0]} is not finite")
    return InvalidEventError("not_json", problem)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:40]}'" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
