"""The text of CSV files: its encoding, its header, and its lines with a quote too many."""

from __future__ import annotations

import csv
import gzip
import io
import logging
from pathlib import Path
from statistics import median_low

from client.data.cells import is_number
from client.data.columns import SEPARATORS, separated_otherwise
from common.errors import UserError

log = logging.getLogger(__name__)

_FIRST_LINES = 20
"""Lines among which the header is looked for."""
_UTF8_MARK = b"\xef\xbb\xbf"
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
"""Byte order marks of encodings that are not read. UTF-32 first: its mark begins as that of UTF-16."""
_INFLUXDB = (
    "annotated CSV of InfluxDB, with one value per line; expected one column for each feature: use pivot() "
    "in the query, and export without annotations"
)
_OTHER_FORMATS = {
    b"#separator": "a Zeek log, separated by tabs; expected CSV with a header line",
    **dict.fromkeys((b"#group", b"#datatype", b"#default", b",result,table,"), _INFLUXDB),
    b"\x1f\x8b": "compressed by gzip; expected the suffix .csv.gz",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; expected CSV: unpack it, or save the table as CSV",
    b"SQLite format 3": "a database of SQLite; expected CSV: export the table",
}
"""Formats by how their content begins, each with what to do about it."""


class DataError(UserError):
    """A data file cannot be used; the message names the file, the place in it, and what was expected."""


def read_text(path: Path) -> bytes:
    """Return the file's text as bytes of UTF-8, without its byte order mark."""
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        content = gzip.decompress(content)
    for mark, what in _OTHER_FORMATS.items():
        if content.removeprefix(_UTF8_MARK).startswith(mark):
            raise DataError(f"{path}: is {what}")
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
    return content if b"\n" in content else content.replace(b"\r", b"\n")


def find_header(content: bytes, path: Path) -> tuple[list[str], int]:
    """Return the names of the columns, and where the lines after the header start.

    Lines before the header that have at most half of its cells, such as a title, are skipped.
    """
    lines = _first_lines(content)
    if not lines:
        raise DataError(f"{path}: cannot be read: it has no line with column names")
    usual = median_low([len(cells) for cells, _ in lines[-3:]])
    skipped = 0
    if not _separated_otherwise(lines):
        skipped = next((i for i, (cells, _) in enumerate(lines) if 2 * len(cells) > usual), 0)
    if skipped:
        log.warning("lines before the header skipped file=%s count=%d", path, skipped)
    names, at = lines[skipped]
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


def without_stray_quotes(body: bytes) -> tuple[bytes, int]:
    """Return the lines with an even number of quotes, and how many lines have an odd one.

    A quote that is not closed makes all lines up to the next quote one cell.
    """
    lines = body.splitlines(keepends=True)
    kept = [line for line in lines if line.count(b'"') % 2 == 0]
    return b"".join(kept), len(lines) - len(kept)


def _separated_otherwise(lines: list[tuple[list[str], int]]) -> bool:
    """Return whether the first two lines have the same number of one of the other separators."""
    first, second = (",".join(cells) for cells, _ in (lines[0], lines[-1] if len(lines) < 2 else lines[1]))
    return any(first.count(separator) == second.count(separator) > 0 for separator in SEPARATORS)


def _first_lines(content: bytes) -> list[tuple[list[str], int]]:
    """Return the cells of the first lines that are neither empty nor comments, and where each line ends."""
    lines, at = [], 0
    for line in io.BytesIO(content):
        at += len(line)
        if line.strip() and not line.startswith((b"#", b"sep=")):
            cells = next(csv.reader([line.decode().strip("\r\n").replace("\r", " ")]), [])
            lines.append(([cell.strip() for cell in cells], at))
            if len(lines) == _FIRST_LINES:
                break
    return lines
