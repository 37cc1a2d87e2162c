"""What edges tell of incidents, as the server takes it: `POST /alerts`, from the `webhook` sink of an edge.

Whether anything is told is the operator's choice, on both sides: an alert holds values of the features that
explain it, and these leave the edge in no other way.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from common.protocol.alerts import Notice
from server.storage.history import History

MAX_BYTES = 256 * 1024
MAX_CAUSES = 16
"""That are kept of a notice: the largest."""
MAX_FEATURE = 200
"""Letters of a feature's name that are kept."""


def truncated(notice: Notice) -> Notice:
    """Return the notice as it is stored: at most `MAX_CAUSES` causes, with names of at most `MAX_FEATURE`."""
    causes = tuple(
        replace(cause, feature=cause.feature[:MAX_FEATURE]) for cause in notice.alert.causes[:MAX_CAUSES]
    )
    return replace(notice, alert=replace(notice.alert, causes=causes))


def admits(token: str, authorization: str) -> bool:
    """Whether a request's `Authorization` has the token: as a bearer's, or as the password of any user.

    >>> admits("secret", "Bearer secret"), admits("secret", "Basic ZWRnZTpzZWNyZXQ="), admits("secret", "")
    (True, True, False)
    """
    scheme, _, value = authorization.partition(" ")
    given = value.strip().encode()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token.encode())


def record(history: History, notice: Notice) -> bool:
    """Keep a notice; False if it is known already.

    Raises:
        DatabaseError: it is not kept, and is to be posted again.
    """
    return history.add_notice(notice.client, notice.id, notice.kind, truncated(notice).pack().decode())


def incidents(notices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Notices of the same incident together, newest first.

    Args:
        notices: Rows of the table, newest first.

    Returns:
        Of each incident: what its last notice says (see `Notice`), whether it is `open`, and when the server
        heard of it first and last, `received_at` and `heard_at`, in seconds since 1970.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in notices:
        key = (row["client"], row["incident"])
        ended = row["kind"] == "incident_ended"
        known = found.setdefault(key, {"open": True, "heard_at": row["received_at"]})
        if ended or "id" not in known:
            content = msgspec.json.decode(row["content"])
            del content["kind"]
            known |= {**content, "open": known["open"] and not ended}
        known["received_at"] = min(known.get("received_at", row["received_at"]), row["received_at"])
    return list(found.values())
