"""Data files as tables: CSV and Parquet, with columns of numbers, booleans or text."""

from __future__ import annotations

import csv
import gzip
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from client.data.cells import SWITCH_OFF, SWITCH_ON, is_number, is_unit
from client.data.columns import separated_otherwise
from client.data.files.names import SUFFIXES
from common.errors import UserError

log = logging.getLogger(__name__)

MAX_BROKEN_SHARE = 0.01
"""Share of the lines of a CSV file that may have another number of cells; they are skipped."""

_UTF8_MARK = b"\xef\xbb\xbf"
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
"""Byte order marks of encodings that are not read. UTF-32 first: its mark begins as that of UTF-16."""
_OTHER_FORMATS = {
    b"#separator": "a Zeek log, separated by tabs; expected CSV with a header line",
    b"#group": "annotated CSV of InfluxDB, with one value per line; expected one column for each feature: "
    "use pivot() in the query, and export without annotations",
    b"#datatype": "annotated CSV of InfluxDB, with one value per line; expected one column for each feature: "
    "use pivot() in the query, and export without annotations",
}
"""Formats by how their first line begins, each with what to do about it."""


class DataError(UserError):
    """A data file cannot be used; the message names the file, the place in it, and what was expected."""


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
    content = _content(path)
    names, start = _header(content, path)
    body = memoryview(content)[start:]
    broken = _BrokenLines()
    table = _body(body, names, broken)
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


def _content(path: Path) -> bytes:
    """Return the file's text as bytes of UTF-8, without its byte order mark."""
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        content = gzip.decompress(content)
    for mark, encoding in _ENCODINGS:
        if content.startswith(mark):
            raise DataError(
                f"{path}: is encoded in {encoding}; expected UTF-8: convert it with "
                f"`iconv -f {encoding} -t UTF-8`"
            )
    start = content[:200]
    if start.count(0) > len(start) / 4:
        raise DataError(f"{path}: cannot be read: contains zero bytes, as UTF-16 has; expected text in UTF-8")
    content = content.removeprefix(_UTF8_MARK)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: cannot be read: byte 0x{content[error.start]:02x} in line {line} is not UTF-8; "
            "expected text in UTF-8 (is it Latin-1? convert it with `iconv -f LATIN1 -t UTF-8`)"
        ) from None
    return content


def _header(content: bytes, path: Path) -> tuple[list[str], int]:
    """Return the names of the columns, and where the lines after the header start."""
    for mark, what in _OTHER_FORMATS.items():
        if content.startswith(mark):
            raise DataError(f"{path}: is {what}")
    at = 0
    for line in io.BytesIO(content):
        at += len(line)
        if line.strip() and not line.startswith(b"#"):
            break
    else:
        raise DataError(f"{path}: cannot be read: it has no line with column names")
    names = [cell.strip() for cell in next(csv.reader([line.decode().strip("\r\n")]))]
    for i, name in enumerate(names):
        if is_number(name):
            raise DataError(
                f"{path}: the header names column {i + 1} '{name}'; expected a first line with column names"
            )
    if not any(names):
        raise DataError(f"{path}: the header names no column; expected a first line with column names")
    if len(names) == 1 and (separated := separated_otherwise(names[0])):
        raise DataError(f"{path}: {separated}")
    return names, at


def _body(body: memoryview, names: list[str], broken: _BrokenLines) -> pa.Table:
    """Read the lines after the header."""
    numbered = [str(i) for i in range(len(names))]
    # With threads, the number of an invalid row is not known.
    reading = pyarrow.csv.ReadOptions(use_threads=False, column_names=numbered)
    parsing = pyarrow.csv.ParseOptions(invalid_row_handler=broken)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(numbered, pa.string()), null_values=[""], strings_can_be_null=True
    )
    if not body.tobytes().strip():
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
