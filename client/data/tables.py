"""Data files as tables: CSV and Parquet, with columns of numbers, booleans or text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from client.data.names import SUFFIXES
from common.errors import UserError

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
"""Pattern of text that is a number."""


class DataError(UserError):
    """A data file cannot be used; the message names the file, the place in it, and what was expected."""


def read_table(path: Path) -> pa.Table:
    """Read the table in a file, with at least one row. Columns of a CSV file are text, or booleans.

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
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
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
    return column


def _csv(path: Path) -> pa.Table:
    """Read all columns as text, so that errors can name the first cell that is not a number."""
    invalid_rows: list[Any] = []

    def keep(row: Any) -> str:
        invalid_rows.append(row)
        return "error"

    reading = pyarrow.csv.ReadOptions(
        use_threads=False
    )  # with threads, the number of an invalid row is not known
    parsing = pyarrow.csv.ParseOptions(invalid_row_handler=keep)
    try:
        with pyarrow.csv.open_csv(path, reading, parsing) as probe:
            names = probe.schema.names
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        )
        table = pyarrow.csv.read_csv(path, reading, parsing, convert)
    except pa.ArrowInvalid:
        if not invalid_rows:
            raise
        row = invalid_rows[0]
        raise DataError(
            f"{path}: row {row.number - 1} has {row.actual_columns} cells, expected {row.expected_columns}"
        ) from None
    for i, name in enumerate(names := [name.strip() for name in names]):
        if not name or re.match(NUMBER, name):
            raise DataError(
                f"{path}: the header names column {i + 1} '{name}'; expected a first line with column names"
            )
    return pa.table([_booleans(column) for column in table.columns], names=names)


def _booleans(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of `true` and `false` as booleans; any other column as it is."""
    words = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
    boolean = pc.all(pc.is_in(words, pa.array(["true", "false"])), min_count=1).as_py()
    return pc.equal(words, "true") if boolean else cells
