"""Columns of a table: what each holds, and its cells as numbers or times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.data.cells import MISSING, NUMBER, QUANTITY, SWITCH, SWITCH_ON, is_missing, is_tag, is_unit
from client.data.columns import Content, Kind, course_of
from client.data.timestamps import parse_seconds

MAX_BAD_SHARE = 0.01
"""Share of numbers with units or separators up to which they are bad cells of a column of plain numbers."""
TRIED_TIMES = 20
"""Cells of a text column that are tried as times."""


def content_of_column(column: pa.ChunkedArray) -> Content:
    """Return what a column holds.

    Text with numbers in at least half of its cells is a column of numbers, and the rest counts as missing.
    """
    kind = column.type
    if pa.types.is_boolean(kind):
        return Content(Kind.SWITCHES) if column.null_count < len(column) else Content(Kind.EMPTY)
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return Content(Kind.TIMES)
    if is_numeric(kind):
        return _numbers_or_empty(numbers_of(column))
    if not pa.types.is_string(kind):
        return Content(Kind.OTHER, f"type {kind}")
    if (plain := _cast(column)) is not None:
        return _numbers_or_empty(plain)
    text = pc.drop_null(pc.utf8_trim_whitespace(column))
    present = pc.filter(text, pc.invert(pc.match_substring_regex(text, MISSING)))
    if not len(present):
        return Content(Kind.EMPTY)
    if is_unit(pc.unique(present).to_pylist() * min(len(present), 2)):
        return Content(Kind.TEXT, present[0].as_py())
    number = pc.or_(pc.match_substring_regex(present, NUMBER), pc.match_substring_regex(present, SWITCH))
    numbers = pc.sum(number).as_py() or 0
    quantity = pc.and_not(pc.match_substring_regex(present, QUANTITY), number)
    quantities = pc.filter(present, quantity)
    first = present[0].as_py()
    few = len(quantities) <= MAX_BAD_SHARE * numbers  # they count as missing, as other text does
    if not few and 2 * (len(quantities) + numbers) >= len(present):
        if is_tag(first, len(present) > 1 and pc.all(pc.equal(present, first)).as_py()):
            return Content(Kind.TEXT, first)
        return Content(Kind.QUANTITIES, repr(quantities[0].as_py())[:40])
    if 2 * numbers >= len(present):
        return Content(Kind.NUMBERS, "", *course_of(numbers_of(column)))
    tried = [cell.as_py() for cell in present[:TRIED_TIMES]]
    if sum(parse_seconds(cell) is not None for cell in tried) > len(tried) / 2:
        return Content(Kind.TIMES, first)
    return Content(Kind.TEXT, first)


def _numbers_or_empty(values: NDArray[np.float64]) -> Content:
    return Content(Kind.NUMBERS, "", *course_of(values)) if np.isfinite(values).any() else Content(Kind.EMPTY)


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether a type of Arrow holds numbers or booleans, or nothing at all."""
    types = pa.types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def numbers_of(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers, booleans or text as numbers; NaN for all other cells."""
    if pa.types.is_string(column.type):
        if (plain := _cast(column)) is not None:
            return plain
        text = pc.utf8_trim_whitespace(column)
        number = pc.match_substring_regex(text, NUMBER)
        switch = pc.match_substring_regex(text, SWITCH)
        on = pc.is_in(pc.utf8_lower(text), pa.array(SWITCH_ON))
        column = pc.if_else(number, text, pc.if_else(switch, pc.if_else(on, "1", "0"), "nan"))
        column = pc.replace_substring_regex(column, r"^\+", "")  # Arrow does not accept '+'
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return values


def unreadable_cells(column: pa.ChunkedArray) -> tuple[int, Any, int]:
    """Count the cells of a column with text that is neither a number nor a missing value.

    Returns:
        Their number, the first of them, and its row, counted from 1; (0, None, 0) without one.
    """
    if not pa.types.is_string(column.type):
        return 0, None, 0
    invalid = ~np.isfinite(numbers_of(column))
    rows = [int(row) for row in np.flatnonzero(invalid)]
    not_numbers = [
        (row, cell) for row in rows if (cell := column[row].as_py()) is not None and not is_missing(cell)
    ]
    return (len(not_numbers), not_numbers[0][1], not_numbers[0][0] + 1) if not_numbers else (0, None, 0)


def times_of(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of times in seconds since 1970; NaN for all other cells."""
    if pa.types.is_temporal(column.type):
        if pa.types.is_time(column.type):
            return np.full(len(column), np.nan)
        column = pc.cast(pc.cast(column, pa.timestamp("ns")), pa.int64())
        values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy()
        return values / 1e9
    seconds = [parse_seconds(cell) for cell in column.to_pylist()]
    return np.array([np.nan if time is None else time for time in seconds], np.float64)


def _cast(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Return text that is all plain numbers or empty as numbers; None if some of it is not."""
    try:
        values: NDArray[np.float64] = pc.cast(pc.utf8_trim_whitespace(column), pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return values
