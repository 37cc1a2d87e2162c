"""Notices, which a detector sends to its sinks and the server accepts at `POST /alerts`, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from common.bounds import MAX_FEATURES, ClientName, Count, FeatureName, Finite, Share

NoticeKind = Literal[
    "incident_started",
    "incident_ended",
    "regime_changed",
    "adapted",
    "flapping",
    "sensor_silent",
    "sensor_stuck",
    "stream_silent",
    "events_refused",
]
"""The kinds of notices:

- `incident_started`, `incident_ended`: the first and the last notice of an incident.
- `regime_changed`: an open incident has lasted so long that it looks like a new normal state.
- `adapted`: the detector takes the values of an open incident as normal from here on; the incident has ended.
- `flapping`: incidents of one leading feature come again and again; the next ones are not reported.
- `sensor_silent`: a feature has no values any more.
- `sensor_stuck`: the value of a feature does not change any more.
- `stream_silent`: no event has come for much longer than usual.
- `events_refused`: nearly all lines of the stream are refused as events.
"""

OPEN_KINDS: tuple[NoticeKind, ...] = ("incident_started", "regime_changed")
"""After a notice of these kinds an incident is open, until one of `END_KINDS` with the same id."""
END_KINDS: tuple[NoticeKind, ...] = ("incident_ended", "adapted")
"""The last notices of an incident."""

MAX_NOTICE_TEXT = 500
"""Longest text of a notice, in characters."""

_IncidentId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,64}$")]


class AlertError(ValueError):
    """Bytes are not a notice; the message names the field and what was expected."""


class Cause(msgspec.Struct, frozen=True):
    """A feature's part in an alert. A number that is not finite is sent as null."""

    feature: FeatureName
    share: Share | None
    """Share of the window's error, 0 to 1."""
    value: Finite | None
    """The event's value, in the feature's own unit."""
    expected: Finite | None
    """The value that the model reconstructs, in the same unit."""


class Alert(msgspec.Struct, frozen=True):
    """An event whose score is above the threshold. A score that is not finite is sent as null."""

    time: Finite
    """Seconds since 1970."""
    score: Finite | None
    threshold: Finite | None
    version: Count
    """Model version that scored the event."""
    causes: Annotated[tuple[Cause, ...], Meta(max_length=MAX_FEATURES)]
    """Features with the largest shares of the error, largest first."""


class Notice(msgspec.Struct, frozen=True):
    """A message about an incident, or about a stream that cannot be watched as it should."""

    kind: NoticeKind
    id: _IncidentId
    """The incident's id: the same in all its notices, and when a stream is read again after a crash."""
    client: ClientName
    started: Finite
    """Time of the incident's first alert, or of the start of another problem, in seconds since 1970."""
    ended: Finite | None
    """Time of its last alert; None while it is open."""
    events: Count
    """Number of events above the threshold so far; in notices about the stream, of the events concerned."""
    alert: Alert | None
    """The incident's first alert when it starts, and the one with the highest score later.

    None in a notice that does not follow from a score: `sensor_silent`, `sensor_stuck`, `stream_silent`,
    `events_refused`.
    """
    text: Annotated[str, Meta(max_length=MAX_NOTICE_TEXT)] | None = None
    """A sentence for people that says more than the kind; None: there is nothing to add."""

    def pack(self) -> bytes:
        """Return the notice as a JSON object."""
        return msgspec.json.encode(self)

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the notice in a JSON object.

        Unknown fields are ignored, since a client may be newer than its server.

        Raises:
            AlertError: the content is not a notice, or a field is outside its bounds.
        """
        try:
            return msgspec.json.decode(content, type=cls)
        except (ValueError, RecursionError) as error:
            raise AlertError(_by_field(str(error))) from None


def _by_field(problem: str) -> str:
    """Return a problem that msgspec describes as `field: problem`, without the value that was received."""
    what, separator, path = problem.rpartition(" - at `$")
    if not separator:
        return f"the body: {problem}"
    if what.startswith("Invalid enum value"):
        what = "unknown value"
    return f"{path.strip('.`')}: {what}"
