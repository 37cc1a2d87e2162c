"""Which fields of a stream are features. A stream's schema is resolved here, before events are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from common.model.schema import Schema
from common.settings import DataSettings

log = logging.getLogger(__name__)

SchemaLookup = Callable[[], Schema | None]


def may_be_feature(name: str, data: DataSettings) -> bool:
    """Return whether a column of this name can be a feature where `data.features` does not list the features.

    >>> [name for name in ("cpu", "ts", "_note") if may_be_feature(name, DataSettings())]
    ['cpu']
    """
    special = (data.label, data.split, data.timestamp, *data.ignore)
    return name not in special and not name.startswith("_")


def schema_of_object(line: bytes, data: DataSettings) -> Schema | None:
    """Return the schema that a JSON object suggests, its numeric fields; None if the line suggests none.

    >>> schema_of_object(b'{"ts": 5, "cpu": 0.5, "host": "a"}', DataSettings())
    Schema(features=('cpu',))
    """
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    features = [
        name for name, value in event.items() if type(value) in (int, float) and may_be_feature(name, data)
    ]
    return Schema(tuple(features)) if features else None


class SchemaResolver:
    """Resolves the schema of a stream, from the first of these that names the features.

    1. the fixed model version of a client that never trains;
    2. the setting `data.features`;
    3. the client's current version;
    4. a version that training offers, or the first JSON object of the stream, whichever comes first.

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
        self.skipped_lines = 0
        """Number of lines from which the schema could not be resolved. They are not scored."""

    def without_stream(self) -> Schema | None:
        """Return the schema if it is known before the stream is read."""
        if self._fixed is not None:
            return self._fixed
        if self._data.features is not None:
            return Schema(self._data.features)
        return self._current()

    def from_stream(self, lines: Sequence[bytes]) -> Schema | None:
        """Return the schema if a version is offered, or if one of the stream's next lines suggests it."""
        if (schema := self._offered()) is not None:
            return schema
        for line in lines:
            if (schema := schema_of_object(line, self._data)) is not None:
                log.info("features learned from the stream features=%s", ",".join(schema.features))
                return schema
        self.skipped_lines += len(lines)
        return None
