"""The columns of a stream: some of its events by name, and what each field holds."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from client.data.cells import is_missing, is_number, is_quantity, is_switch, is_tag, is_unit
from client.data.columns import Columns, Content, Kind, choose_columns, course_of, separated_otherwise
from client.data.streams.csv_lines import names_columns, split_cells, without_empty_end
from client.data.streams.json_fields import flat, kind_of_value
from client.data.streams.refusals import InvalidEventError, is_line_protocol, listed
from client.data.timestamps import parse_seconds
from common.settings import DataSettings

MAX_SAMPLE = 64
"""Number of newest lines from which the features are chosen again, as long as there is no version."""

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
        self.problem: str | None = None
        """The problem with the encoding of the last line, or with the last header; None without one."""

    def __len__(self) -> int:
        return len(self._events)

    def add(self, line: bytes) -> bool:
        """Add an event if the line is one whose values have names; return whether the line names columns."""
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.problem = "lines are not UTF-8; are they UTF-16 or Latin-1?"
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
        """Return what each field is. Fields of inner objects count if most features are among them.

        Args:
            current: Fields that are features so far; they remain features while they come now and then.
        """
        events = list(self._events)
        columns = self._choose(events, current)
        if not any(isinstance(value, dict) for event in events for value in event.values()):
            return columns
        inner = self._choose([flat(event) for event in events], current)
        return inner if len(inner.features) > 2 * len(columns.features) else columns

    def _choose(self, events: Sequence[Mapping[str, Any]], current: Sequence[str]) -> Columns:
        values: dict[str, list[Any]] = {}
        for event in events:
            for name, value in event.items():
                values.setdefault(name, []).append(value)
        most = max(map(len, values.values()), default=0)
        usual, rare = {}, {}
        for name, present in values.items():
            share = _KEPT_SHARE if name in current else _USUAL_SHARE
            if len(present) >= share * most:
                usual[name] = content_of_values(present)
            else:
                rare[name] = f"in {len(present)} of {len(events)} events"
        columns = choose_columns(usual, self._data)
        if not rare:
            return columns
        return Columns(
            columns.features, columns.time, {**columns.ignored, **rare}, columns.rising, columns.unreadable
        )

    def _add_csv(self, text: str) -> bool:
        if text.lstrip().startswith(("#", "sep=")) or is_line_protocol(text):
            return False
        try:
            cells = split_cells(text)
        except InvalidEventError:
            return False
        if names_columns(cells) and (len(cells) > 1 or not self._events):
            return self._add_header(cells)
        if self._header is None:
            return False
        cells = without_empty_end(cells, len(self._header))
        if len(cells) != len(self._header):
            return False
        self._events.append({name: cell for name, cell in zip(self._header, cells, strict=True) if name})
        return True

    def _add_header(self, cells: list[str]) -> bool:
        names = without_empty_end(cells, 0)
        problem = separated_otherwise(cells[0]) if len(cells) == 1 else None
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            problem = f"header names columns twice: {listed(twice)}"
        if problem is not None and self._header is not None:  # text between the lines, such as units
            return False
        self.problem = problem
        self._header = names if problem is None else None
        return self._header is not None and len(cells) > 1


def content_of_values(values: Sequence[Any]) -> Content:
    """Return what a field holds, of some of its values: JSON values, or text of CSV cells."""
    present = [value for value in values if not _is_missing(value)]
    if not present:
        return Content(Kind.EMPTY)
    if all(isinstance(value, str) for value in present) and is_unit(present):
        return Content(Kind.TEXT, present[0])
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
