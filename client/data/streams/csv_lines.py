"""Lines of CSV in a stream: a header names the columns; without one, rows of numbers are read by order."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence

from client.data.cells import NumberAsTextError, is_missing, is_quantity, number_in
from client.data.columns import SEPARATORS, find_time, separated_otherwise
from client.data.streams.refusals import InvalidEventError, NoEventError, is_line_protocol, listed, not_csv
from client.data.timestamps import parse_seconds
from common.settings import DataSettings


def split_cells(text: str) -> list[str]:
    """Return the cells of a line, without spaces around them.

    Raises:
        InvalidEventError: the line is not CSV.
    """
    try:
        cells = next(csv.reader([text], skipinitialspace=True, strict=True))
    except (csv.Error, StopIteration):
        raise not_csv(text) from None
    return [cell.strip() for cell in cells]


def without_empty_end(cells: list[str], count: int) -> list[str]:
    """Return the cells without the empty ones at the end of the line, as far as they are more than `count`.

    >>> without_empty_end(["1", "", "", ""], 2)
    ['1', '']
    """
    while len(cells) > count and not cells[-1]:
        cells = cells[:-1]
    return cells


def names_columns(cells: Sequence[str]) -> bool:
    """Return whether the cells of a line are names: text, and not only words for missing values.

    A single letter may be a name, also `t`, which is true as a value.

    >>> names_columns(["ts", "cpu"]), names_columns(["2024-01-01", "1.5"]), names_columns(["", "on"])
    (True, False, False)
    """
    named = False
    for cell in cells:
        if not cell or is_missing(cell):
            continue
        if cell.lower() in ("t", "f"):
            continue
        if is_quantity(cell) or parse_seconds(cell) is not None or _is_number_or_switch(cell):
            return False
        named = True
    return named


class CsvReader:
    """Reads the CSV lines of one stream by the columns of its header.

    A line whose cells are names is a header. It names the columns of the lines after it, in any order, with
    other columns between them; upper and lower case do not matter where the names differ in more than these.
    After a header without all features, lines are refused until a header fits. Without a header, lines of
    numbers are read in the order of the features.

    Args:
        features: The features, in the order in which values are returned.
        data: Names the time column.
    """

    def __init__(self, features: Sequence[str], data: DataSettings) -> None:
        self._features, self._data = features, data
        self._order: Sequence[int] | None = None
        """Column of each feature; None before the first line."""
        self._columns = 0
        """Number of cells in a line."""
        self._time: int | None = None
        self._has_header = False
        self.extras: tuple[str, ...] = ()
        """Columns of the header that are not features."""
        self.time: str | None = None
        """The time column of the header."""
        self.mismatch: str | None = None
        """The reason why the last header does not fit the features; None if it fits."""

    def cells(self, text: str) -> tuple[list[str], str | None]:
        """Return the cells of the features of a line, and the cell of its time.

        Raises:
            NoEventError: the line is a header that fits, or a comment.
            InvalidEventError: the line is not CSV, has another number of cells, or names other columns.
        """
        if text.lstrip().startswith(("#", "sep=")):
            raise NoEventError
        if is_line_protocol(text):
            raise not_csv(text)
        cells = split_cells(text)
        if self._is_header(cells):
            self._read_header(cells)
            if self.mismatch is None:
                raise NoEventError
        if self.mismatch is not None:
            raise InvalidEventError("unknown_columns", self.mismatch)
        if len(cells) <= 1 and len(self._features) > 1:
            raise not_csv(text)
        if self._order is None:
            self._order, self._columns = range(len(self._features)), len(self._features)
        if len(cells) > self._columns:
            cells = without_empty_end(cells, self._columns)
        if len(cells) != self._columns:
            reason = "missing_feature" if len(cells) < self._columns else "extra_feature"
            hint = "" if self._has_header else "; a line with the names of the columns may come first"
            raise InvalidEventError(reason, f"{len(cells)} values, expected {self._columns}{hint}")
        return [cells[i] for i in self._order], None if self._time is None else cells[self._time]

    def number(self, cell: str, name: str) -> float | None:
        """Return the number in a feature's cell, NaN if it is missing; None for other text after a header.

        Raises:
            InvalidEventError: the cell is a number with a unit, or is other text and there was no header.
        """
        try:
            number = number_in(cell) if cell else math.nan
        except NumberAsTextError as error:
            raise number_as_text(name, str(error)) from None
        if number is None and not self._has_header:
            raise InvalidEventError("wrong_type", f"'{name}' is {cell[:40]!r}, expected a number")
        return number

    def _is_header(self, cells: Sequence[str]) -> bool:
        lower = {name.lower() for name in self._features}
        shared = any(cell.lower() in lower for cell in cells)
        if len(cells) == 1:
            return shared or any(
                name.strip().lower() in lower for sep in SEPARATORS for name in cells[0].split(sep)
            )
        if not names_columns(cells):
            return shared and all(name in cells for name in self._features)
        # Text that shares no name with the features is a header where one is expected, and else noise.
        return (
            shared or self._order is None or (len(cells) == self._columns and len(set(cells)) == len(cells))
        )

    def _read_header(self, cells: list[str]) -> None:
        self.mismatch = None
        self._has_header = True
        twice = sorted({name for name in cells if name and cells.count(name) > 1})
        if twice:
            self.mismatch = f"the header names columns twice: {listed(twice)}"
            return
        if len(cells) == 1 < len(self._features) and (separated := separated_otherwise(cells[0])):
            self.mismatch = f"the header's {separated}"
            return
        order = [_position(name, cells) for name in self._features]
        if missing := [name for name, at in zip(self._features, order, strict=True) if at is None]:
            self.mismatch = f"the header names no column {listed(missing)}; it has {listed(cells)}"
            return
        self._order = [at for at in order if at is not None]
        cells = without_empty_end(cells, 1)
        self._columns = len(cells)
        extras = [name for i, name in enumerate(cells) if i not in self._order]
        self.time = find_time(extras, self._data)
        self._time = None if self.time is None else cells.index(self.time)
        self.extras = tuple(name for name in extras if name != self.time)


def number_as_text(name: str, text: str) -> InvalidEventError:
    """Return the refusal of a number with a unit, a thousands separator or a decimal comma."""
    return InvalidEventError(
        "number_as_text", f"'{name}' is {text!r}; expected a plain number, such as 1512.3, without unit"
    )


def _is_number_or_switch(cell: str) -> bool:
    try:
        return number_in(cell) is not None
    except NumberAsTextError:
        return True


def _position(name: str, cells: Sequence[str]) -> int | None:
    """Return the column of a feature: that of its name, or the only one that differs in case alone."""
    if name in cells:
        return cells.index(name)
    alike = [i for i, cell in enumerate(cells) if cell.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None
