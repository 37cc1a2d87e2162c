"""One client's data file: CSV or Parquet in, scaled by nobody yet, checked cell by cell.

Errors name the file, the column and the first row that is wrong; rows are counted from 1, the header not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from common.config import DataSettings
from common.schema import Schema, SchemaError

ENDINGS = (".csv", ".csv.gz", ".parquet")


class DataError(ValueError):
    """A data file cannot be used; the message names the file, the place, and what was expected."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The rows of one client, in time order. Labels exist only for test rows."""

    name: str
    schema: Schema
    rows: NDArray[np.float32]
    """Training rows, shape (n, features), n >= 1."""
    test_rows: NDArray[np.float32]
    """Shape (m, features); m is 0 where the file has no test rows."""
    test_labels: NDArray[np.int8] | None
    """Shape (m,): 0 normal, 1 anomaly. None where the file has no label column."""

    def aligned(self, schema: Schema) -> Partition:
        """The same rows with their columns in the order of `schema`.

        Raises:
            SchemaError: a feature is missing or extra; the message names it and this client.
        """
        if schema == self.schema:
            return self
        try:
            order = schema.align(self.schema.features)
        except SchemaError as error:
            raise SchemaError(f"client '{self.name}': {error}") from error
        return replace(self, schema=schema, rows=self.rows[:, order], test_rows=self.test_rows[:, order])

    def take(self, name: str, rows: NDArray[np.intp], test_rows: NDArray[np.intp]) -> Partition:
        """A part of this client's rows under another name."""
        labels = None if self.test_labels is None else self.test_labels[test_rows]
        return Partition(name, self.schema, self.rows[rows], self.test_rows[test_rows], labels)


def files(folder: Path) -> list[Path]:
    """The data files of a folder, in natural order: `server-2` before `server-10`.

    Raises:
        DataError: there is none, or two would give the same client name.
    """
    found = sorted(
        (path for path in folder.iterdir() if path.name.endswith(ENDINGS) and not path.name.startswith(".")),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )
    if not found:
        raise DataError(f"{folder}: no data file in it; expected files ending in {', '.join(ENDINGS)}")
    by_name: dict[str, Path] = {}
    for path in found:
        if (other := by_name.setdefault(client_name(path), path)) != path:
            raise DataError(f"{path} and {other} are both the data of client '{client_name(path)}'")
    return found


def client_name(path: Path) -> str:
    """A data file's name without its ending, which names the client."""
    return next((path.name.removesuffix(end) for end in ENDINGS if path.name.endswith(end)), path.name)


def read(path: Path, settings: DataSettings, name: str | None = None) -> Partition:
    """Read one client's rows.

    Args:
        path: A CSV file with a header line, or a Parquet file.
        settings: Which columns are features, and what the others mean.
        name: The client's name; None: the file's name without its ending.

    Raises:
        DataError: the file cannot be read, or a column or a cell in it is not what it should be.
    """
    table = _table(path)
    features = _features(table, settings, path)
    values = np.empty((table.num_rows, len(features)), np.float32)
    for i, feature in enumerate(features):
        values[:, i] = _numbers(table, feature, path)
    testing = _flags(table, settings.split, path, "0 for training or 1 for test rows")
    labels = _flags(table, settings.label, path, "0 or 1")
    split = np.zeros(len(values), bool) if testing is None else testing == 1
    if split.all():
        raise DataError(
            f"{path}: no training rows" + (f"; '{settings.split}' is 1 in every row" if len(split) else "")
        )
    return Partition(
        name=name or client_name(path),
        schema=Schema(tuple(features)),
        rows=values[~split],
        test_rows=values[split],
        test_labels=None if labels is None else labels[split],
    )


def read_column(path: Path, column: str) -> list[str]:
    """One column of a data file as text, a value a row.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    table = _table(path)
    if column not in table.column_names:
        raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.column_names)}")
    return [str(value) for value in table.column(column).to_pylist()]


def write(partition: Partition, path: Path, settings: DataSettings) -> Path:
    """Write a partition as a Parquet file that `read` gives back."""
    rows = np.concatenate([partition.rows, partition.test_rows])
    columns: dict[str, Any] = {name: rows[:, i] for i, name in enumerate(partition.schema.features)}
    normal = np.zeros(len(partition.rows), np.int8)
    columns[settings.split] = np.concatenate([normal, np.ones(len(partition.test_rows), np.int8)])
    if partition.test_labels is not None:
        columns[settings.label] = np.concatenate([normal, partition.test_labels])
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a CSV or Parquet file"
        )
    if not path.name.endswith(ENDINGS):
        raise DataError(f"{path}: expected a file ending in {', '.join(ENDINGS)}")
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
    return pyarrow.parquet.ParquetFile(path).read()


def _csv(path: Path) -> pa.Table:
    """All columns as text: which are numbers is decided here, where the first bad cell can be named."""
    convert = pyarrow.csv.ConvertOptions(
        strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True
    )
    with pyarrow.csv.open_csv(path) as probe:
        names = probe.schema.names
    convert.column_types = dict.fromkeys(names, pa.string())
    return pyarrow.csv.read_csv(path, convert_options=convert)


def _features(table: pa.Table, settings: DataSettings, path: Path) -> list[str]:
    if settings.features is not None:
        missing = [name for name in settings.features if name not in table.column_names]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(map(repr, missing))}, which 'data.features' lists; "
                f"it has {', '.join(table.column_names)}"
            )
        return list(settings.features)
    special = {settings.label, settings.split, settings.timestamp, *settings.ignore}
    found = [
        name
        for name in table.column_names
        if name not in special and not name.startswith("_") and _looks_numeric(table.column(name))
    ]
    if not found:
        raise DataError(f"{path}: no numeric column to learn from; it has {', '.join(table.column_names)}")
    return found


def _looks_numeric(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers. Text in which any cell is a number does: the others are mistakes."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        cells = column.drop_null()
        return not len(cells) or bool(np.isfinite(_parsed(cells)).any())
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _parsed(cells: pa.ChunkedArray) -> NDArray[np.float64]:
    """Text cells as numbers; NaN for a cell that is none."""
    text = pc.utf8_trim_whitespace(cells)
    number = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    kept = pc.if_else(number, text, pa.scalar("nan"))
    # Arrow's cast takes no leading '+' nor a bare leading '.'.
    plain = pc.replace_substring_regex(kept, r"^\+", "")
    values: NDArray[np.float64] = pc.cast(plain, pa.float64()).to_numpy()
    return values


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.float32]:
    column = table.column(name)
    _refuse_first(column.is_null().to_numpy(), name, path, "is empty")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = _parsed(column)
        words = column.to_pylist()
        for row in np.flatnonzero(np.isnan(values)):
            word = words[row]
            if word.strip().lower() not in _NOT_FINITE:
                raise DataError(f"{path}: column '{name}', row {row + 1}: {word!r} is not a number")
            _refuse_first(np.isnan(values), name, path, f"is {word.strip()}")
    elif not _looks_numeric(column):
        raise DataError(f"{path}: column '{name}' is of type {kind}, expected numbers")
    else:
        values = pc.cast(column, pa.float64()).to_numpy()
    _refuse_first(np.isnan(values), name, path, "is NaN")
    _refuse_first(np.isinf(values), name, path, "is infinite")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    _refuse_first(np.isinf(narrow), name, path, "is beyond the range of 32-bit floats")
    return narrow


_NOT_FINITE = {"nan", "null", "none", "na", "n/a", "inf", "+inf", "-inf", "infinity", "-infinity"}


def _refuse_first(wrong: NDArray[np.bool_], name: str, path: Path, what: str) -> None:
    if wrong.any():
        row, count = int(wrong.argmax()) + 1, int(wrong.sum())
        more = f" (and {count - 1} more rows)" if count > 1 else ""
        raise DataError(f"{path}: column '{name}', row {row}: the value {what}{more}; expected a number")


def _flags(table: pa.Table, name: str, path: Path, expected: str) -> NDArray[np.int8] | None:
    """A column of zeros and ones, or None where the file has no such column."""
    if name not in table.column_names:
        return None
    values = _numbers(table, name, path)
    wrong: Sequence[int] = np.flatnonzero((values != 0) & (values != 1)).tolist()
    if wrong:
        raise DataError(
            f"{path}: column '{name}', row {wrong[0] + 1}: {values[wrong[0]]:g}, expected {expected}"
        )
    return values.astype(np.int8)
