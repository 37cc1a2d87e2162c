"""Refusals: lines of a stream that are not events, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_EVENT_BYTES = 1 << 20
"""Size of the longest event. A source passes on one byte more of a longer line, which is then refused."""

REASONS = (
    "too_long",
    "not_utf8",
    "not_json",
    "wrong_type",
    "number_as_text",
    "missing_feature",
    "extra_feature",
    "not_finite",
    "unknown_columns",
)
"""Reasons for which a line is refused."""


_LINE_PROTOCOL = re.compile(r"^[A-Za-z_][^\s,=]*(,[^\s,=]+=[^\s,]+)*\s+[^\s,=]+=\S")


class InvalidEventError(ValueError):
    """A line is not an event of this stream. `reason` is one of `REASONS`; the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoEventError(Exception):
    """A line is neither an event nor an error: the header of a CSV stream, or a comment."""


def listed(names: Sequence[str]) -> str:
    """Return the first names in quotes, and how many there are more."""
    shown = ", ".join(f"'{name[:60]}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def not_csv(text: str) -> InvalidEventError:
    """Return the refusal of a line that is neither JSON nor CSV."""
    kind = (
        "a line of InfluxDB's line protocol; send JSON or CSV"
        if is_line_protocol(text)
        else "neither JSON nor CSV"
    )
    return InvalidEventError("not_json", f"{kind}: {text[:60]!r}")


def is_line_protocol(text: str) -> bool:
    """Return whether text looks like InfluxDB's line protocol: `name,tag=a field=1,other=2 TIME`."""
    return _LINE_PROTOCOL.match(text) is not None
