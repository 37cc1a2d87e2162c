"""One client's data file, CSV or Parquet, with every cell checked.

Errors name the file, the column and the first invalid row. Rows are counted from 1, without the header.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from client.data.names import SUFFIXES, client_name, natural_key
from client.data.stream_schema import may_be_feature
from client.data.tables import NUMBER, DataError, read_table
from client.data.timestamps import parse_seconds
from common.model.schema import Schema, SchemaError
from common.settings import DataSettings

_MISSING = r"(?i)^([+-]?(nan|inf|infinity)|null|none|na|n/a|)$"
"""Pattern of text for a missing number. A text column with no other text counts as numeric."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The rows of one client, in time order. Only test rows have labels.

    >>> rows = np.array([[1, 2], [3, 4]], np.float32)
    >>> client = Partition("edge", Schema(("cpu", "memory")), rows, rows[:0], None)
    >>> client.aligned(Schema(("memory", "cpu"))).rows.tolist()
    [[2.0, 1.0], [4.0, 3.0]]
    """

    name: str
    schema: Schema
    rows: NDArray[np.float32]
    """Training rows, shape (n, features), n >= 1."""
    test_rows: NDArray[np.float32]
    """Shape (m, features); m is 0 if the file has no test rows."""
    test_labels: NDArray[np.int8] | None
    """Shape (m,): 0 normal, 1 abnormal. None without a label column or without test rows."""

    def aligned(self, schema: Schema) -> Partition:
        """Return the same rows with their columns in the order of `schema`.

        Raises:
            SchemaError: a feature is missing or extra; the message names it and this client.
        """
        if schema == self.schema:
            return self
        order = self.aligned_order(schema)
        return replace(self, schema=schema, rows=self.rows[:, order], test_rows=self.test_rows[:, order])

    def aligned_order(self, schema: Schema) -> list[int]:
        """Return the column of each feature of `schema`.

        Raises:
            SchemaError: as `aligned`.
        """
        try:
            return schema.align(self.schema.features)
        except SchemaError as error:
            raise SchemaError(f"client '{self.name}': {error}") from error

    def take(self, name: str, rows: NDArray[np.intp], test_rows: NDArray[np.intp]) -> Partition:
        """Return a part of the rows as a partition with another name.

        Args:
            name: Its name.
            rows: Indices of training rows.
            test_rows: Indices of test rows.
        """
        labels = self.test_labels[test_rows] if self.test_labels is not None and len(test_rows) else None
        return Partition(name, self.schema, self.rows[rows], self.test_rows[test_rows], labels)


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
    table = read_table(path)
    features = _features(table, settings, path)
    values = np.empty((table.num_rows, len(features)), np.float32)
    for i, feature in enumerate(features):
        values[:, i] = _numbers(table.column(feature), feature, path, listed=settings.features is not None)
    testing = _testing(table, settings, path)
    labels = _flags(table, settings.label, path, "0 or 1")
    return Partition(
        name=name or client_name(path),
        schema=Schema(tuple(features)),
        rows=values[~testing],
        test_rows=values[testing],
        test_labels=None if labels is None or not testing.any() else labels[testing],
    )


def read_column(path: Path, column: str, settings: DataSettings) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Read another column as text: its values in the training rows and in the test rows.

    Raises:
        DataError: the file cannot be read, has no such column, or the column has an empty cell.
    """
    table = read_table(path)
    if column not in table.column_names:
        raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.column_names)}")
    cells = table.column(column)
    text = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    _reject(pc.equal(pc.fill_null(text, ""), "").to_numpy(), cells, column, path, "a value in every row")
    values = np.array(text.to_pylist(), np.str_)
    testing = _testing(table, settings, path)
    return values[~testing], values[testing]


def read_interval_s(path: Path, settings: DataSettings) -> float | None:
    """Return the median of the seconds between two rows; None if the rows have no usable times.

    Raises:
        DataError: the file cannot be read.
    """
    table = read_table(path)
    if settings.timestamp not in table.column_names:
        return None
    column = table.column(settings.timestamp)
    if pa.types.is_temporal(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("ns")), pa.int64())
    seconds = [parse_seconds(cell) for cell in column.to_pylist()]
    times = np.array([np.nan if time is None else time for time in seconds])
    steps = np.diff(times[np.isfinite(times)])
    median = float(np.median(steps)) if len(steps) else 0.0
    return median if median > 0 else None


def write_partition(partition: Partition, path: Path, settings: DataSettings) -> Path:
    """Write a partition to a Parquet file from which `read_partition` reads the same rows. Return `path`."""
    rows = np.concatenate([partition.rows, partition.test_rows])
    columns: dict[str, Any] = {name: rows[:, i] for i, name in enumerate(partition.schema.features)}
    normal = np.zeros(len(partition.rows), np.int8)
    columns[settings.split] = np.concatenate([normal, np.ones(len(partition.test_rows), np.int8)])
    if partition.test_labels is not None:
        columns[settings.label] = np.concatenate([normal, partition.test_labels])
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def _features(table: pa.Table, settings: DataSettings, path: Path) -> list[str]:
    if settings.features is not None:
        missing = [name for name in settings.features if name not in table.column_names]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(map(repr, missing))}, which 'data.features' lists; "
                f"it has {', '.join(table.column_names)}"
            )
        return list(settings.features)
    features = [
        name
        for name in table.column_names
        if may_be_feature(name, settings) and _looks_numeric(table.column(name))
    ]
    if not features:
        raise DataError(f"{path}: no numeric column to learn from; it has {', '.join(table.column_names)}")
    return features


def _looks_numeric(column: pa.ChunkedArray) -> bool:
    """Return whether a column is meant to hold numbers. One number is enough: other text is an error then."""
    if not pa.types.is_string(column.type):
        return _is_numeric(column.type)
    text = pc.utf8_trim_whitespace(column)
    if pc.any(pc.match_substring_regex(text, NUMBER)).as_py():
        return True
    return bool(pc.all(pc.match_substring_regex(text, _MISSING), min_count=0).as_py())


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def _parsed(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers, or of text that is numbers, as float64; NaN for other cells."""
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        number = pc.match_substring_regex(text, NUMBER)
        column = pc.replace_substring_regex(
            pc.if_else(number, text, "nan"), r"^\+", ""
        )  # Arrow does not accept '+'
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return values


def _numbers(column: pa.ChunkedArray, name: str, path: Path, listed: bool) -> NDArray[np.float32]:
    if not (pa.types.is_string(column.type) or _is_numeric(column.type)):
        raise DataError(f"{path}: column '{name}' is of type {column.type}, expected numbers")
    with np.errstate(over="ignore"):
        values = _parsed(column).astype(np.float32)
    advice = "" if listed else f", or '{name}' in 'data.ignore'"
    _reject(~np.isfinite(values), column, name, path, f"a finite 32-bit number{advice}")
    return values


def _flags(table: pa.Table, name: str, path: Path, expected: str) -> NDArray[np.int8] | None:
    """Return a column of zeros and ones; None if the file has no such column."""
    if name not in table.column_names:
        return None
    column = table.column(name)
    if not (pa.types.is_string(column.type) or _is_numeric(column.type)):
        raise DataError(f"{path}: column '{name}' is of type {column.type}, expected {expected}")
    values = _parsed(column)
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
