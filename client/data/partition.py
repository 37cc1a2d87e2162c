"""The rows of one client, as its data file has them: training rows, and test rows with labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.columns import Columns
from client.data.timestamps import usual_interval_s
from common.model.schema import Schema, SchemaError

GAP_STEPS = 5
"""Usual intervals above which a step in time is a gap, if it is also rare: see `Partition.breaks`."""


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
    times: NDArray[np.float64] | None = None
    """Times of the training rows in seconds since 1970, NaN where unknown, shape (n,). None: not known."""
    columns: Columns | None = None
    """The roles of the columns of its file; None: the rows are from no file."""

    @property
    def interval_s(self) -> float | None:
        """The usual seconds between two training rows; None without usable times."""
        return usual_interval_s(self.times) if self.times is not None else None

    @property
    def breaks(self) -> NDArray[np.bool_]:
        """Whether a training row does not directly follow the one before it, shape (n,).

        That is so at the first row, and after a gap in time: a step back, or one of more than `GAP_STEPS`
        usual intervals that is also more than three times as long as 95 % of the steps are. Where rows come
        in bursts, the time between two bursts is no gap.
        """
        breaks = np.zeros(len(self.rows), np.bool_)
        breaks[:1] = True
        if self.times is None or (interval_s := self.interval_s) is None:
            return breaks
        steps = np.diff(self.times)
        if not np.nanmedian(steps) > 0:
            return breaks
        longest = max(GAP_STEPS * interval_s, 3 * float(np.nanquantile(steps, 0.95)))
        breaks[1:] = (steps > longest) | (steps < -interval_s)
        return breaks

    def summary(self) -> dict[str, Any]:
        """Return features, time, interval and ignored columns as JSON values."""
        columns = self.columns or Columns(self.schema.features, None)
        return {
            "client": self.name,
            "features": list(columns.features),
            "time": columns.time,
            "interval_s": self.interval_s,
            "ignored": dict(columns.ignored),
            "only_rising": list(columns.rising),
        }

    def description(self) -> str:
        """Return features, time, interval and ignored columns in one line."""
        columns = self.columns or Columns(self.schema.features, None)
        return columns.description(self.interval_s)

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
        times = None if self.times is None else self.times[rows]
        return replace(
            self,
            name=name,
            rows=self.rows[rows],
            test_rows=self.test_rows[test_rows],
            test_labels=labels,
            times=times,
        )
