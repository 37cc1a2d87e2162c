"""The rows of a Parquet file as JSON objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from client.connectors.sources.contract import Ended, Position, SourceError, whole
from client.data.recent_events import MAX_BATCH_EVENTS


class ParquetRows:
    """Batches of rows, read a little at a time, each row with the number of rows up to and with it."""

    def __init__(self, path: Path, position: Position | None) -> None:
        """Open `path`.

        Raises:
            SourceError: it is missing or not Parquet.
        """
        import pyarrow as pa  # slow to import, and only needed here
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
        start = whole(position, "row")
        self._row = start[0] if start else 0
        self._batches = self._from(self._row)

    def more(self) -> list[tuple[bytes, int]] | None:
        """The next rows.

        Raises:
            Ended: there are no more rows.
            SourceError: the file cannot be read on.
        """
        try:
            batch = next(self._batches, None)
        except self._failures as error:
            raise SourceError(f"{self._path}: cannot be read on: {str(error).splitlines()[0]}") from error
        if batch is None:
            raise Ended(f"{self._path}: read to its end")
        events = [msgspec.json.encode(row, enc_hook=str) for row in batch]
        self._row += len(events)
        return [(event, self._row - len(events) + i) for i, event in enumerate(events, 1)]

    def position_at(self, offset: int | None) -> Position:
        """The position after the row with this number; None: after all rows that `more` returned."""
        return {"row": self._row if offset is None else offset}

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._file.close()

    def _from(self, row: int) -> Iterator[list[dict[str, Any]]]:
        """Rows from this number on; row groups before it are not read."""
        import pyarrow as pa

        for group in range(self._file.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            if row < size:
                for batch in self._file.iter_batches(MAX_BATCH_EVENTS, row_groups=[group], use_threads=False):
                    if row < batch.num_rows:
                        yield pa.table(_plain(batch)).slice(row).to_pylist()
                    row = max(0, row - batch.num_rows)
            else:
                row -= size


def _plain(batch: Any) -> dict[str, Any]:
    """Columns in types that JSON has a word for: nanoseconds would need pandas, decimals would be text."""
    import pyarrow as pa

    def plain(column: Any) -> Any:
        kind = column.type
        if pa.types.is_timestamp(kind):
            return column.cast(pa.timestamp("us", kind.tz), safe=False)
        if pa.types.is_duration(kind):
            return column.cast(pa.duration("us"), safe=False)
        if pa.types.is_time64(kind):
            return column.cast(pa.time64("us"), safe=False)
        if pa.types.is_decimal(kind):
            return column.cast(pa.float64())
        return column

    return {name: plain(batch.column(i)) for i, name in enumerate(batch.schema.names)}
