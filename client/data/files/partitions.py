"""Data files of clients, CSV or Parquet: read to partitions, with NaN for missing values, and written.

Errors name the file and the columns. Rows are counted from 1, without the header.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from client.data.columns import Columns, Content, Kind, choose_columns, reasons
from client.data.files.columns import content_of_column, is_numeric, numbers_of, times_of, unreadable_cells
from client.data.files.csv_text import DataError
from client.data.files.names import SUFFIXES, client_name, natural_key
from client.data.files.tables import read_table
from client.data.partition import Partition
from common.model.schema import Schema
from common.settings import DataSettings

log = logging.getLogger(__name__)


def data_files(folder: Path) -> list[Path]:
    """List the data files of a folder, in natural order: `server-2` before `server-10`.

    Raises:
        DataError: there is no such folder, it has no data file, or two files give the same client name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder with a data file for each client")
    files = sorted(
        (path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith(".")),
        key=lambda path: natural_key(path.name),
    )
    if not files:
        raise DataError(
            f"{folder}: no data file in it; expected files with the suffix {' or '.join(SUFFIXES)}"
        )
    by_name: dict[str, Path] = {}
    for path in files:
        if (other := by_name.setdefault(client_name(path), path)) != path:
            raise DataError(f"{path} and {other} are both the data of client '{client_name(path)}'")
    return files


def read_partition(path: Path, settings: DataSettings, name: str | None = None) -> Partition:
    """Read the rows of one client.

    Args:
        path: A CSV file with a header line, or a Parquet file.
        settings: Which columns are features, and what the other columns mean.
        name: The client's name; None: the file's name without its suffix.

    Raises:
        DataError: the file cannot be read, or a column or a cell is not valid.
    """
    table, columns, values = _usable_rows(path, settings)
    testing = _testing(table, settings, path)
    labels = _flags(table, settings.label, path, "0 or 1")
    times = None if columns.time is None else times_of(table.column(columns.time))[~testing]
    partition = Partition(
        name=name or client_name(path),
        schema=Schema(columns.features),
        rows=values[~testing],
        test_rows=values[testing],
        test_labels=None if labels is None or not testing.any() else labels[testing],
        times=times if times is not None and np.isfinite(times).any() else None,
        columns=columns,
    )
    _report(partition, path)
    return partition


def read_column(path: Path, column: str, settings: DataSettings) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Read another column as text: its values in the training rows and in the test rows of `read_partition`.

    Raises:
        DataError: the file cannot be read, has no such column, or the column has an empty cell.
    """
    table = _usable_rows(path, settings)[0]
    if column not in table.column_names:
        raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.column_names)}")
    cells = table.column(column)
    text = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    _reject(pc.equal(pc.fill_null(text, ""), "").to_numpy(), cells, column, path, "a value in every row")
    values = np.array(text.to_pylist(), np.str_)
    testing = _testing(table, settings, path)
    return values[~testing], values[testing]


def write_partition(partition: Partition, path: Path, settings: DataSettings) -> Path:
    """Write a partition to a Parquet file from which `read_partition` reads the same rows. Return `path`."""
    rows = np.concatenate([partition.rows, partition.test_rows])
    columns: dict[str, Any] = {name: rows[:, i] for i, name in enumerate(partition.schema.features)}
    normal = np.zeros(len(partition.rows), np.int8)
    columns[settings.split] = np.concatenate([normal, np.ones(len(partition.test_rows), np.int8)])
    if partition.times is not None:
        no_times = np.full(len(partition.test_rows), np.nan)
        columns[settings.time_name] = np.concatenate([partition.times, no_times])
    if partition.test_labels is not None:
        columns[settings.label] = np.concatenate([normal, partition.test_labels])
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def _usable_rows(path: Path, settings: DataSettings) -> tuple[pa.Table, Columns, NDArray[np.float32]]:
    """Return the rows with at least one value, the roles of the columns, and the features' values."""
    table = read_table(path)
    columns = _columns(table, settings, path)
    values = np.empty((table.num_rows, len(columns.features)), np.float32)
    for i, feature in enumerate(columns.features):
        values[:, i] = _numbers(table.column(feature), feature, path)
    present = np.asarray(np.isfinite(values).any(axis=1))
    if not present.all():
        table, values = _with_values(table, values, present, path)
    return table, columns, values


def _columns(table: pa.Table, settings: DataSettings, path: Path) -> Columns:
    """Return what each column is, or raise an error that names all columns that cannot be used."""
    has = f"it has {', '.join(table.column_names)}"
    missing = [name for name in settings.features or () if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}, which 'data.features' lists; {has}"
        )
    contents = {name: content_of_column(table.column(name)) for name in table.column_names}
    columns = choose_columns(contents, settings)
    if columns.unreadable:
        raise DataError(
            f"{path}: numbers as text: {reasons(columns.unreadable)}; expected plain numbers, such as 1512.3 "
            "without unit, thousands separator or decimal comma: convert them, or name them in 'data.ignore'"
        )
    if settings.features is not None:
        wrong = {n: reason for n in columns.features if (reason := _not_numbers(table, n, contents[n]))}
        if wrong:
            raise DataError(f"{path}: not numbers, but listed in 'data.features': {reasons(wrong)}")
    if not columns.features:
        ignored = f"; ignored: {reasons(columns.ignored)}" if columns.ignored else ""
        raise DataError(f"{path}: no numeric column to learn from; {has}{ignored}")
    return columns


def _not_numbers(table: pa.Table, name: str, content: Content) -> str | None:
    if content.kind in (Kind.NUMBERS, Kind.SWITCHES, Kind.EMPTY):
        return None
    kind = table.column(name).type
    return f"text, such as {content.example!r}" if content.kind is Kind.TEXT else f"type {kind}"


def _numbers(column: pa.ChunkedArray, name: str, path: Path) -> NDArray[np.float32]:
    """Return a column as numbers, NaN where one is missing; warn of text that counts as missing."""
    count, cell, row = unreadable_cells(column)
    if count:
        log.warning(
            "cells are not numbers, count as missing file=%s column=%s count=%d: the first is %r in row %d",
            path, name, count, str(cell)[:60], row,
        )  # fmt: skip
    with np.errstate(over="ignore"):
        values = numbers_of(column).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def _with_values(
    table: pa.Table, values: NDArray[np.float32], present: NDArray[np.bool_], path: Path
) -> tuple[pa.Table, NDArray[np.float32]]:
    """Return the rows with a value of at least one feature, and warn of the others."""
    log.warning(
        "rows without any value skipped file=%s count=%d: the first is row %d",
        path, int((~present).sum()), int(np.argmin(present)) + 1,
    )  # fmt: skip
    if not present.any():
        raise DataError(f"{path}: no row has the value of a feature")
    return table.filter(pa.array(present)), values[present]


def _report(partition: Partition, path: Path) -> None:
    """Log what was read, and what is unusual about it."""
    log.info("data read file=%s rows=%d: %s", path, len(partition.rows), partition.description())
    for warning in partition.columns.warnings() if partition.columns is not None else ():
        log.warning("%s: %s", path, warning)
    missing = np.isnan(partition.rows).mean(axis=0)
    if missing.any():
        shown = {
            n: f"{share:.1%}" for n, share in zip(partition.schema.features, missing, strict=True) if share
        }
        log.warning("values are missing file=%s: %s", path, reasons(shown))
    if gaps := int(partition.breaks[1:].sum()):
        log.info("gaps in time file=%s count=%d", path, gaps)


def _flags(table: pa.Table, name: str, path: Path, expected: str) -> NDArray[np.int8] | None:
    """Return a column of zeros and ones; None if the file has no such column."""
    if name not in table.column_names:
        return None
    column = table.column(name)
    if not (pa.types.is_string(column.type) or is_numeric(column.type)):
        raise DataError(f"{path}: column '{name}' is of type {column.type}, expected {expected}")
    values = numbers_of(column)
    _reject((values != 0) & (values != 1), column, name, path, expected)
    return values.astype(np.int8)


def _testing(table: pa.Table, settings: DataSettings, path: Path) -> NDArray[np.bool_]:
    """Return whether each row is a test row, shape (rows,)."""
    split = _flags(table, settings.split, path, "0 for training or 1 for test rows")
    if split is None:
        return np.zeros(table.num_rows, np.bool_)
    if split.all():
        raise DataError(f"{path}: no training rows; '{settings.split}' is 1 in every row")
    return split.astype(np.bool_)


def _reject(
    invalid: NDArray[np.bool_], column: pa.ChunkedArray, name: str, path: Path, expected: str
) -> None:
    """Raise an error that names the first invalid cell, if there is one, and their number."""
    if not invalid.any():
        return
    row, count = int(invalid.argmax()), int(invalid.sum())
    cell = column[row].as_py()
    content = "an empty cell" if cell is None else repr(cell)[:60]
    more = f" ({count} such rows)" if count > 1 else ""
    raise DataError(f"{path}: column '{name}', row {row + 1}: {content}{more}; expected {expected}")
