"""Reads the rows of a Parquet file as JSON objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.sources.contract import (
    EndOfStreamError,
    Position,
    SourceError,
    fingerprint,
    whole_numbers,
)

EDGE_BYTES = 4096
"""At either end of a file, this many bytes identify it."""


class ParquetRows:
    """Batches of rows, each row with the number of rows up to and including it.

    Args:
        path: The file.
        position: Where to continue; None: at the first row.

    Raises:
        SourceError: the file is missing, or not a Parquet file.
    """

    def __init__(self, path: Path, position: Position | None) -> None:
        import pyarrow as pa  # imported here: it takes long, and only this class needs it
        import pyarrow.parquet

        self.problem: str | None = None
        self._path = path
        self._failures = (pa.ArrowException, OSError)
        try:
            self._file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 16)
        except FileNotFoundError as error:
            raise SourceError(f"{path}: {error.strerror}; expected a file to read") from error
        except self._failures as error:
            raise SourceError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error
        self._content = _content(path)
        start = whole_numbers(position, "row")
        same = position is not None and position.get("content", self._content) == self._content
        self._row = start[0] if start and same else 0
        self._batches = self._from(self._row)

    def next_batch(self) -> list[tuple[bytes, int]] | None:
        """Return the next rows.

        Raises:
            EndOfStreamError: there are no more rows.
            SourceError: the rest of the file cannot be read.
        """
        try:
            batch = next(self._batches, None)
        except self._failures as error:
            reason = str(error).splitlines()[0]
            raise SourceError(f"{self._path}: cannot be read after row {self._row}: {reason}") from error
        if batch is None:
            raise EndOfStreamError(f"{self._path}: read to its end")
        events = [msgspec.json.encode(row, enc_hook=str) for row in batch]
        self._row += len(events)
        return [(event, self._row - len(events) + i) for i, event in enumerate(events, 1)]

    def position_at(self, offset: int | None) -> Position:
        """Return the position after the row with this number; None: after all rows returned so far."""
        return {"row": self._row if offset is None else offset, "content": self._content}

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._file.close()

    def _from(self, row: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows from this number on; earlier row groups are not read."""
        import pyarrow as pa

        for group in range(self._file.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            if row < size:
                for batch in self._file.iter_batches(MAX_BATCH_EVENTS, row_groups=[group], use_threads=False):
                    if row < batch.num_rows:
                        yield pa.table(_json_columns(batch)).slice(row).to_pylist()
                    row = max(0, row - batch.num_rows)
            else:
                row -= size


def _content(path: Path) -> int:
    """Return a fingerprint of a file: its size, its first bytes, and its last ones, which list its parts."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - EDGE_BYTES))
        end = file.read(EDGE_BYTES)
        file.seek(0)
        return fingerprint(b"%d " % size + file.read(EDGE_BYTES) + end)


def _json_columns(batch: Any) -> dict[str, Any]:
    """Return the columns in types that become JSON well: times in us, since ns would need pandas."""
    import pyarrow as pa

    def convert(column: Any) -> Any:
        kind = column.type
        if pa.types.is_timestamp(kind):
            return column.cast(pa.timestamp("us", kind.tz), safe=False)
        if pa.types.is_duration(kind):
            return column.cast(pa.duration("us"), safe=False)
        if pa.types.is_time64(kind):
            return column.cast(pa.time64("us"), safe=False)
        if pa.types.is_decimal(kind):  # would become text
            return column.cast(pa.float64())
        return column

    return {name: convert(batch.column(i)) for i, name in enumerate(batch.schema.names)}
