"""The slow path of decoding: lines in any form, and fields that are not known yet."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from client.data.cells import NumberAsTextError, is_missing, number_in
from client.data.columns import find_time
from client.data.streams.csv_lines import CsvReader, number_as_text
from client.data.streams.json_fields import flat, kind_of_value
from client.data.streams.refusals import MAX_EVENT_BYTES, InvalidEventError, NoEventError, listed
from common.settings import DataSettings

log = logging.getLogger(__name__)

MAX_KNOWN_FIELDS = 64
"""Fields that are not features and are known by name; of more, the names are not reported."""

_LARGEST = 3.4028235677973366e38
"""Half a step above the largest 32-bit float: the first number that does not fit into one."""

Values = Sequence[Any]
"""The values of the features of one event, in their order, as the line has them."""


@dataclass(frozen=True)
class KnownFields:
    """The fields of a stream's JSON objects that are not features, as far as they are known."""

    time: str | None
    """Name of the field with the time; None until it is found."""
    others: frozenset[str]
    """Fields that are not features, besides the time."""
    nested: bool = False
    """Whether events have their features in objects within the object."""


class SlowDecoder:
    """Decodes a line in any form of an event, and learns the names of fields that are not features.

    Args:
        features: The features, in the order in which values are returned.
        data: Names the columns that are not features.
    """

    def __init__(self, features: tuple[str, ...], data: DataSettings) -> None:
        self._names, self._data = features, data
        self.csv = CsvReader(features, data)
        """The reader of lines that are CSV."""
        others = frozenset({data.label, data.split, *data.ignore} - {*features})
        self.known = KnownFields(data.timestamp, others)
        """The fields learned so far; another object as soon as there are more."""
        self.ignored: dict[str, str] = {}
        """The roles of the fields and columns that are not features, by name."""
        self._unreadable: set[str] = set()
        """Features that had other text than a number, which is logged once for each."""

    @property
    def time(self) -> str | None:
        """The field or column with the time of the events so far."""
        return self.csv.time or self.known.time

    def decode(self, line: bytes) -> tuple[Sequence[float], Any]:
        """Return the values of a line, NaN where one is missing, and its timestamp as the line has it.

        Raises:
            InvalidEventError: the line is not an event.
            NoEventError: the line is a header or a comment.
        """
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
            return self.json_numbers(event), None
        return self._object(event)

    def json_numbers(self, values: Values) -> list[float]:
        """Return the values of a JSON event as numbers, NaN where one is missing.

        Raises:
            InvalidEventError: no value is a number, or one is a number with a unit.
        """
        return self._numbers(values, _json_number)

    def _object(self, event: Mapping[str, Any]) -> tuple[Sequence[float], Any]:
        if not all(name in event for name in self._names):
            inner = flat(event)
            if sum(name in inner for name in self._names) > sum(name in event for name in self._names):
                event = inner
                if not self.known.nested:
                    self.known = replace(self.known, nested=True)
        values = self.json_numbers([event.get(name) for name in self._names])
        if unknown := event.keys() - self.known.others - set(self._names) - {self.known.time}:
            self._learn({name: event[name] for name in event if name in unknown})
        return values, None if self.known.time is None else event.get(self.known.time)

    def _csv_line(self, text: str) -> tuple[Sequence[float], Any]:
        try:
            cells, time = self.csv.cells(text)
        except NoEventError:
            known = (self._data.label, self._data.split, *self._data.ignore, "")
            self._ignore({name: "not a feature" for name in self.csv.extras if name not in known})
            raise
        return self._numbers(cells, self.csv.number), time

    def _learn(self, fields: Mapping[str, Any]) -> None:
        """Take over the names of fields that are not features, and of the time if it is among them."""
        time, others = self.known.time, self.known.others
        if time is None:
            time = find_time(fields, self._data)
        new = [name for name in fields if name != time][: MAX_KNOWN_FIELDS - len(others)]
        self._ignore({name: kind_of_value(fields[name]) for name in new if not name.startswith("_")})
        if new or time != self.known.time:
            self.known = replace(self.known, time=time, others=others.union(new))

    def _ignore(self, fields: Mapping[str, str]) -> None:
        reported = self.ignored.keys() | self.known.others
        new = {name: role for name, role in fields.items() if name not in reported}
        self.ignored.update(new)
        if new:
            log.info("fields ignored names=%s", "; ".join(f"{name}: {role}" for name, role in new.items()))

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

    def _note_unreadable(self, name: str, value: Any) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.warning(
                "value is not a number and counts as missing feature=%s value=%s", name, repr(value)[:60]
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


def _json_number(value: Any, name: str) -> float | None:
    """Return a value of a JSON event as a number, NaN if it is missing, None if it is something else.

    Raises:
        InvalidEventError: it is a number with a unit.
    """
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
