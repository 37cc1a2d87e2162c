"""Data files as tables: CSV and Parquet, with columns of numbers, booleans or text."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from client.data.cells import SWITCH_OFF, SWITCH_ON, is_unit
from client.data.files.csv_text import DataError, find_header, read_text, without_stray_quotes
from client.data.files.names import SUFFIXES

log = logging.getLogger(__name__)

MAX_BROKEN_SHARE = 0.01
"""Share of the lines of a CSV file that may have another number of cells; they are skipped."""


def read_table(path: Path) -> pa.Table:
    """Read the table in a file, with at least one row. Columns of a CSV file are text, or booleans.

    Columns without a name are left out. Lines of a CSV file that begin with `#` are comments.

    Raises:
        DataError: the file is missing or empty, does not fit its suffix, or names a column twice.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a CSV or Parquet file"
        )
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: expected the suffix {' or '.join(SUFFIXES)}")
    try:
        table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    twice = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
    if twice:
        raise DataError(f"{path}: columns named twice: {', '.join(map(repr, twice))}")
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    return table


def _parquet(path: Path) -> pa.Table:
    table = pyarrow.parquet.ParquetFile(path).read()
    return pa.table([_plain(column) for column in table.columns], names=table.column_names)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column without the encodings of other writers: categories, large strings, string views."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return switches(column) if pa.types.is_string(column.type) else column


@dataclass
class _BrokenLines:
    """Lines with another number of cells than the header. The reader calls it for each."""

    rows: list[Any] = field(default_factory=list)
    comments: int = 0

    def __call__(self, row: Any) -> str:
        if row.text.lstrip().startswith("#"):
            self.comments += 1
        else:
            self.rows.append(row)
        return "skip"


def _csv(path: Path) -> pa.Table:
    """Read all columns as text, so that errors can name the first cell that is not a number."""
    content = read_text(path)
    names, start = find_header(content, path)
    body = content[start:]
    broken = _BrokenLines()
    table = _body(body, names, broken)
    if b'"' in body and table.num_rows + len(broken.rows) < len(body.splitlines()):
        body, table, broken = _without_stray_quotes(body, table, names, broken, path)
    if broken.rows and not table.num_rows:  # all lines are of one length that is not the header's
        longer = len(names) + 1
        if all(row.actual_columns == longer and row.text.rstrip().endswith(",") for row in broken.rows):
            names, broken = [*names, ""], _BrokenLines()
        elif not names[-1] and all(row.actual_columns == len(names) - 1 for row in broken.rows):
            names, broken = names[:-1], _BrokenLines()
        if not broken.rows:
            table = _body(body, names, broken)
    _check_broken(broken.rows, table.num_rows, path)
    named = [i for i, name in enumerate(names) if name]
    if len(named) < len(names):
        log.info("columns without a name left out file=%s count=%d", path, len(names) - len(named))
    return pa.table([switches(table.column(i)) for i in named], names=[names[i] for i in named])


def _without_stray_quotes(
    body: bytes, table: pa.Table, names: list[str], broken: _BrokenLines, path: Path
) -> tuple[bytes, pa.Table, _BrokenLines]:
    """Return the lines without those with a quote that is not closed, if these have more rows."""
    whole, count = without_stray_quotes(body)
    without = _BrokenLines()
    closed = _body(whole, names, without)
    if closed.num_rows <= table.num_rows:
        return body, table, broken
    if count > MAX_BROKEN_SHARE * (closed.num_rows + count):
        raise DataError(f"{path}: {count} lines have a quote that is not closed")
    log.warning("lines with a quote that is not closed skipped file=%s count=%d", path, count)
    return whole, closed, without


def _body(body: bytes, names: list[str], broken: _BrokenLines) -> pa.Table:
    """Read the lines after the header."""
    numbered = [str(i) for i in range(len(names))]
    # With threads, the number of an invalid row is not known.
    reading = pyarrow.csv.ReadOptions(use_threads=False, column_names=numbered)
    parsing = pyarrow.csv.ParseOptions(invalid_row_handler=broken)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(numbered, pa.string()), null_values=[""], strings_can_be_null=True
    )
    if not body.strip():
        return pa.table({name: pa.array([], pa.string()) for name in numbered})
    return pyarrow.csv.read_csv(pa.BufferReader(pa.py_buffer(body)), reading, parsing, convert)


def _check_broken(rows: list[Any], whole: int, path: Path) -> None:
    """Warn of skipped lines, or raise an error if they are too many.

    A last line that was cut short, as by a loss of power, is not counted.
    """
    if not rows:
        return
    total = whole + len(rows)
    last_is_short = rows[-1].number == total and rows[-1].actual_columns < rows[-1].expected_columns
    first = rows[0]
    place = f"row {first.number} has {first.actual_columns} cells, expected {first.expected_columns}"
    if len(rows) - last_is_short > MAX_BROKEN_SHARE * total or not whole:
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise DataError(f"{path}: {place}{more}")
    if len(rows) == 1 and last_is_short:
        log.warning("last line cut short and skipped file=%s: %s", path, place)
    else:
        log.warning("lines skipped file=%s count=%d: the first: %s", path, len(rows), place)


def switches(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of the words for 1 and 0 as booleans; any other as it is."""
    words = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
    allowed = pa.array([*SWITCH_ON, *SWITCH_OFF, ""])
    present = pc.drop_null(words)
    if not len(present) or not pc.all(pc.is_in(present, allowed), min_count=1).as_py():
        return cells
    empty = pc.equal(words, "")
    values = pc.unique(pc.filter(present, pc.not_equal(present, ""))).to_pylist()
    if values and is_unit(values * min(len(present), 2)):
        return cells
    return pc.if_else(empty, None, pc.is_in(words, pa.array(SWITCH_ON)))
