"""Which fields of a stream are features. A stream's columns are resolved here, before events are scored."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from client.data.cells import is_missing, is_number, is_quantity, is_switch, is_tag
from client.data.columns import Columns, Content, Kind, choose_columns, course_of, reasons
from client.data.csv_lines import names_columns, split_cells
from client.data.json_fields import flat, kind_of_value
from client.data.refusals import InvalidEventError, is_line_protocol
from client.data.timestamps import parse_seconds
from common.model.schema import Schema
from common.settings import DataSettings

log = logging.getLogger(__name__)

SchemaLookup = Callable[[], Schema | None]

FIRST_EVENTS = 5
"""Events of which the features are chosen: one odd first event does not decide."""
MAX_SAMPLE = 64
"""Newest lines of which the features are chosen anew, while no version is at work."""

MAX_WAITING = 1024
"""Newest lines that are kept until the features are known, to be scored then."""

_USUAL_SHARE = 0.5
"""A field is usual if it is in this share of the events that the most frequent field is in."""
_KEPT_SHARE = 0.1
"""A field that is a feature remains one from this share on."""


class StreamSample:
    """Some events of a stream, by name: JSON objects, and CSV lines after a header.

    Args:
        data: Names the features, or the columns that are not features.
    """

    def __init__(self, data: DataSettings) -> None:
        self._data = data
        self._events: deque[Mapping[str, Any]] = deque(maxlen=MAX_SAMPLE)
        self._header: list[str] | None = None

    def __len__(self) -> int:
        return len(self._events)

    def add(self, line: bytes) -> bool:
        """Add an event if the line is one whose values have names; return whether the line names columns."""
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            return False
        if text.lstrip()[:1] not in ("{", "["):
            return self._add_csv(text)
        try:
            event = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return False
        if isinstance(event, dict) and event:
            self._events.append(event)
            return True
        return False

    def clear(self) -> None:
        """Forget the events, and keep the header."""
        self._events.clear()

    def columns(self, current: Sequence[str] = ()) -> Columns:
        """Return what each field is.

        Args:
            current: Fields that are features so far; they remain features while they come now and then.
        """
        events = list(self._events)
        columns = self._choose(events, current)
        if (
            columns.features
            or columns.unreadable
            or not any(isinstance(v, dict) for e in events for v in e.values())
        ):
            return columns
        return self._choose([flat(event) for event in events], current)

    def _choose(self, events: Sequence[Mapping[str, Any]], current: Sequence[str]) -> Columns:
        values: dict[str, list[Any]] = {}
        for event in events:
            for name, value in event.items():
                values.setdefault(name, []).append(value)
        most = max(map(len, values.values()), default=0)
        usual, rare = {}, {}
        for name, found in values.items():
            share = _KEPT_SHARE if name in current else _USUAL_SHARE
            if len(found) >= share * most:
                usual[name] = content_of_values(found)
            else:
                rare[name] = f"in {len(found)} of {len(events)} events"
        columns = choose_columns(usual, self._data)
        if not rare:
            return columns
        return Columns(
            columns.features, columns.time, {**columns.ignored, **rare}, columns.rising, columns.unreadable
        )

    def _add_csv(self, text: str) -> bool:
        if text.lstrip().startswith("#") or is_line_protocol(text):
            return False
        try:
            cells = split_cells(text)
        except InvalidEventError:
            return False
        if names_columns(cells) and (len(cells) > 1 or not self._events):
            self._header = cells if len(set(cells)) == len(cells) else None
            return self._header is not None and len(cells) > 1
        if self._header is not None and len(cells) == len(self._header):
            self._events.append(dict(zip(self._header, cells, strict=True)))
            return True
        return False


class SchemaResolver:
    """Resolves the columns of a stream, from the first of these that names the features.

    1. the fixed model version of a client that never trains;
    2. the setting `data.features`;
    3. the client's current version;
    4. a version that training offers, or the first events of the stream, whichever comes first.

    Args:
        data: Names the features, or the columns that are not features.
        fixed: Schema of the fixed version; None: there is no fixed version.
        current: Looks up the schema of the current version.
        offered: Looks up the schema of the version that training offers.
    """

    def __init__(
        self, data: DataSettings, fixed: Schema | None, current: SchemaLookup, offered: SchemaLookup
    ) -> None:
        self._data, self._fixed = data, fixed
        self._current, self._offered = current, offered
        self._sample = StreamSample(data)
        self._waiting: list[bytes] = []
        """Lines that are scored once the features are known."""
        self._next_choice = 4 * FIRST_EVENTS
        self._observed = 0
        self.columns: Columns | None = None
        """What each field is, if the stream has named the features."""
        self.skipped_lines = 0
        """Number of lines from which the schema could not be resolved. They are not scored."""
        self._line_protocol = False

    @property
    def problem(self) -> str | None:
        """Why the features are not known although lines have come; None: they are, or few lines have come."""
        if self.columns is not None:
            return None
        if len(self._sample) and (unreadable := self._sample.columns().unreadable):
            return f"numbers as text: {reasons(unreadable)}; expected plain numbers, without units"
        if len(self._sample):
            found = self._sample.columns()
            if len(self._sample) >= FIRST_EVENTS and not found.features:
                return f"no field holds numbers: set data.features; {found.description()}"
            return None
        if self._line_protocol:
            return (
                f"the stream's {self.skipped_lines} lines are InfluxDB's line protocol, which is not read: "
                "send JSON objects, or a CSV header first"
            )
        if self.skipped_lines:
            return (
                f"the features are not known, and the stream's {self.skipped_lines} lines do not "
                "name them: set data.features, or send JSON objects, or a CSV header first"
            )
        return None

    def without_stream(self) -> Schema | None:
        """Return the schema if it is known before the stream is read."""
        if self._fixed is not None:
            return self._fixed
        if self._data.features is not None:
            return Schema(self._data.features)
        return self._current()

    def from_stream(self, lines: Sequence[bytes], ended: bool = False) -> tuple[Schema | None, list[bytes]]:
        """Return the schema if a version is offered, or if enough events of the stream suggest it.

        Args:
            lines: The next lines of the stream.
            ended: Whether they are the last ones.

        Returns:
            The schema, and the lines to be scored, which are all so far; no schema if it is not known yet.
        """
        for line in lines:
            if not self._sample.add(line):
                self.skipped_lines += 1
                self._line_protocol = is_line_protocol(line.decode(errors="replace"))
        self._waiting = [*self._waiting, *lines][-MAX_WAITING:]
        if (schema := self._offered()) is not None:
            return schema, self._taken()
        if len(self._sample) >= FIRST_EVENTS or (ended and len(self._sample)):
            columns = self._sample.columns()
            if columns.features and not columns.unreadable:
                return self._take(columns), self._taken()
        return None, []

    def reconsider(self, lines: Sequence[bytes]) -> Schema | None:
        """Return another schema if the newest events suggest it. For streams without a version at work.

        The features are chosen anew whenever the number of lines has doubled.

        Args:
            lines: The next lines of the stream.
        """
        if self.columns is None:
            return None
        for line in lines[-MAX_SAMPLE:]:
            self._sample.add(line)
        self._observed += len(lines)
        if self._observed < self._next_choice:
            return None
        self._next_choice = 2 * self._observed
        columns = self._sample.columns(self.columns.features)
        self._sample.clear()
        if not columns.features or columns.unreadable or set(columns.features) == set(self.columns.features):
            return None
        return self._take(columns)

    def _taken(self) -> list[bytes]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _take(self, columns: Columns) -> Schema:
        self.columns = columns
        self._sample.clear()
        log.info("features chosen from the stream: %s", columns.description())
        for warning in columns.warnings():
            log.warning("%s", warning)
        return Schema(columns.features)


def content_of_values(values: Sequence[Any]) -> Content:
    """Return what a field holds, of some of its values: JSON values, or text of CSV cells."""
    present = [
        value for value in values if value is not None and not (isinstance(value, str) and is_missing(value))
    ]
    if not present:
        return Content(Kind.EMPTY)
    kinds = Counter(map(_kind, present))
    kind, _ = kinds.most_common(1)[0]
    if kinds[Kind.QUANTITIES] and kinds[Kind.QUANTITIES] + kinds[Kind.NUMBERS] >= len(present) / 2:
        quantities = [v for v in present if _kind(v) is Kind.QUANTITIES]
        if is_tag(quantities[0], len(present) > 1 and all(v == quantities[0] for v in present)):
            return Content(Kind.TEXT, quantities[0])
        return Content(Kind.QUANTITIES, repr(quantities[0])[:40])
    if kind is Kind.SWITCHES and kinds[Kind.NUMBERS]:
        kind = Kind.NUMBERS
    if kind is Kind.NUMBERS:
        numbers = np.array([_number(v) for v in present if _kind(v) is Kind.NUMBERS], np.float64)
        return Content(kind, "", *course_of(numbers))
    example = next(value for value in present if _kind(value) is kind)
    return Content(kind, kind_of_value(example) if kind is Kind.OTHER else str(example))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and is_missing(value))


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return Kind.SWITCHES
    if isinstance(value, int | float):
        return Kind.NUMBERS
    if not isinstance(value, str):
        return Kind.OTHER
    if is_number(value):
        return Kind.NUMBERS
    if is_switch(value):
        return Kind.SWITCHES
    if is_quantity(value):
        return Kind.QUANTITIES
    return Kind.TIMES if parse_seconds(value) is not None else Kind.TEXT
