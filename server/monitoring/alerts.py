"""Receives notices of incidents at `POST /alerts`, stores them, and lists incidents.

Clients post notices through their webhook sink. Both sides have to be configured for it: a notice contains
values of features, which leave the edge in no other way.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from common.protocol.alerts import END_KINDS, OPEN_KINDS, Notice
from server.storage.history import History

MAX_BYTES = 256 * 1024
"""Maximum size of a posted notice."""
MAX_PER_MINUTE = 120
"""Notices that are accepted from one client in a minute."""
MAX_CAUSES = 16
"""Number of causes of a notice that are stored: the first ones, which have the largest shares."""
MAX_FEATURE_LENGTH = 200
"""Number of characters of a feature's name that are stored."""


def truncated(notice: Notice) -> Notice:
    """Return the notice as it is stored, with at most `MAX_CAUSES` causes and shortened feature names."""
    if notice.alert is None:
        return notice
    causes = tuple(
        replace(cause, feature=cause.feature[:MAX_FEATURE_LENGTH])
        for cause in notice.alert.causes[:MAX_CAUSES]
    )
    return replace(notice, alert=replace(notice.alert, causes=causes))


class PostLimit:
    """Counts the notices of each client in a minute, so that none pushes out the history of the others."""

    def __init__(self) -> None:
        self._minute, self._posts = 0, Counter[str]()

    def wait_s(self, client: str, now: float) -> int:
        """Count a notice; return after how many seconds the client may post it, 0 for at once.

        Args:
            client: Name of the client that posts it.
            now: The time, in seconds.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._posts = minute, Counter()
        if self._posts[client] >= MAX_PER_MINUTE:
            return max(1, math.ceil((minute + 1) * 60 - now))
        self._posts[client] += 1
        return 0


def presented_token(authorization: str) -> bytes:
    """Return the token of an `Authorization` header, as bearer token or as a password; empty if none.

    >>> presented_token("Bearer secret"), presented_token("Basic ZWRnZTpzZWNyZXQ=")
    (b'secret', b'secret')
    >>> presented_token(""), presented_token("Basic ?")
    (b'', b'')
    """
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip().encode()
        case "basic":
            with suppress(ValueError):
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    return b""


def record(history: History, notice: Notice) -> bool:
    """Store a notice; return False if it was stored before.

    Raises:
        DatabaseError: the notice was not stored; the client has to post it again.
    """
    return history.add_notice(notice.client, notice.id, notice.kind, truncated(notice).pack().decode())


def incidents(notices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the notices of each incident.

    Args:
        notices: Rows of the table, newest first.

    Returns:
        The incidents and other notices, newest first: the fields of the last notice (see `Notice`), whether
        it is of an incident that is `open`, and when its first and its last notice were received
        (`received_at`, `updated_at`, in seconds since 1970).
    """
    incidents: dict[tuple[str, str], dict[str, Any]] = {}
    for row in notices:
        key = (row["client"], row["incident"])
        incident = incidents.setdefault(key, {"kind": row["kind"], "updated_at": row["received_at"]})
        if "id" not in incident or _order(row["kind"]) > _order(incident["kind"]):
            incident |= msgspec.json.decode(row["content"])
        incident["open"] = incident["kind"] in OPEN_KINDS
        incident["received_at"] = min(incident.get("received_at", row["received_at"]), row["received_at"])
    return list(incidents.values())


def _order(kind: str) -> int:
    """Return the place of a notice among those of its incident, which may arrive in another order."""
    return (*OPEN_KINDS, *END_KINDS).index(kind) if kind in OPEN_KINDS + END_KINDS else -1
