"""The schema of a stream: its features, resolved before an event is scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from client.data.columns import Columns, reasons
from client.data.streams.refusals import is_line_protocol
from client.data.streams.sample import MAX_SAMPLE, StreamSample
from common.model.schema import Schema
from common.settings import DataSettings

log = logging.getLogger(__name__)

SchemaLookup = Callable[[], Schema | None]
"""Returns a schema; None while it is not known."""

FIRST_EVENTS = 5
"""Number of events from which the features are chosen: a single unusual event does not decide."""
MAX_WAITING = 1024
"""Number of newest lines that are kept until the features are known, to be scored then."""


class SchemaResolver:
    """Resolves the columns of a stream, from the first of these that names the features.

    1. the fixed model version of a client that never trains;
    2. the setting `data.features`;
    3. the client's current version;
    4. a version that training offers, or the first events of the stream, whichever comes first.

    Args:
        data: Names the features, or the columns that are not features.
        fixed: Schema of the fixed version; None: there is no fixed version.
        current: Looks up the schema of the current version.
        offered: Looks up the schema of the version that training offers.
    """

    def __init__(
        self, data: DataSettings, fixed: Schema | None, current: SchemaLookup, offered: SchemaLookup
    ) -> None:
        self._data, self._fixed = data, fixed
        self._current, self._offered = current, offered
        self._sample = StreamSample(data)
        self._waiting: list[bytes] = []
        """Lines that are scored once the features are known."""
        self._next_choice = 4 * FIRST_EVENTS
        self._observed = 0
        self.columns: Columns | None = None
        """The role of each field, if the stream has named the features."""
        self.skipped_lines = 0
        """Number of lines from which the schema could not be resolved. They are not scored."""
        self._line_protocol = False

    @property
    def problem(self) -> str | None:
        """The reason why the features are not known after many lines; None if they are known."""
        if self.columns is not None:
            return None
        if len(self._sample) and (unreadable := self._sample.columns().unreadable):
            return f"numbers as text: {reasons(unreadable)}; expected plain numbers, without units"
        if len(self._sample):
            columns = self._sample.columns()
            if len(self._sample) >= FIRST_EVENTS and not columns.features:
                return f"no field holds numbers: set data.features; {columns.description()}"
            return None
        if self._sample.problem is not None:
            return f"the stream's {self._sample.problem}"
        if self._line_protocol:
            return (
                f"the stream's {self.skipped_lines} lines are InfluxDB's line protocol, which is not read: "
                "send JSON objects, or a CSV header first"
            )
        if self.skipped_lines:
            return (
                f"the features are not known, and the stream's {self.skipped_lines} lines do not "
                "name them: set data.features, or send JSON objects, or a CSV header first"
            )
        return None

    def without_stream(self) -> Schema | None:
        """Return the schema if it is known before the stream is read."""
        if self._fixed is not None:
            return self._fixed
        if self._data.features is not None:
            return Schema(self._data.features)
        return self._current()

    def from_stream(self, lines: Sequence[bytes], ended: bool = False) -> tuple[Schema | None, list[bytes]]:
        """Return the schema if a version is offered, or if enough events of the stream suggest it.

        Args:
            lines: The next lines of the stream.
            ended: Whether they are the last ones.

        Returns:
            The schema, and the lines to be scored, which are all so far; no schema if it is not known yet.
        """
        for line in lines:
            if not self._sample.add(line):
                self.skipped_lines += 1
                self._line_protocol = is_line_protocol(line.decode(errors="replace"))
        self._waiting = [*self._waiting, *lines][-MAX_WAITING:]
        if (schema := self._offered()) is not None:
            return schema, self._taken()
        if len(self._sample) >= FIRST_EVENTS or (ended and len(self._sample)):
            columns = self._sample.columns()
            if columns.features and not columns.unreadable:
                return self._take(columns), self._taken()
        return None, []

    def reconsider(self, lines: Sequence[bytes]) -> Schema | None:
        """Return another schema if the newest events suggest it. For streams without a version at work.

        The features are chosen anew whenever the number of lines has doubled.

        Args:
            lines: The next lines of the stream.
        """
        if self.columns is None:
            return None
        for line in lines[-MAX_SAMPLE:]:
            self._sample.add(line)
        self._observed += len(lines)
        if self._observed < self._next_choice:
            return None
        self._next_choice = 2 * self._observed
        columns = self._sample.columns(self.columns.features)
        self._sample.clear()
        if not columns.features or columns.unreadable or set(columns.features) == set(self.columns.features):
            return None
        return self._take(columns)

    def _taken(self) -> list[bytes]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _take(self, columns: Columns) -> Schema:
        self.columns = columns
        self._sample.clear()
        log.info("features chosen from the stream: %s", columns.description())
        for warning in columns.warnings():
            log.warning("%s", warning)
        return Schema(columns.features)
