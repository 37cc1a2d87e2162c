"""What edges tell of incidents, as the server takes it: `POST /alerts`, from the `webhook` sink of an edge.

Whether anything is told is the operator's choice, on both sides: an alert holds values of the features that
explain it, and these leave the edge in no other way.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.storage.history import History

MAX_BYTES = 256 * 1024
MAX_CAUSES = 16
"""That are kept of a notice: the largest."""
MAX_FEATURE = 200
"""Letters of a feature's name that are kept."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Said(BaseModel):
    """What is not known is left out, so that an edge may be newer than its server."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Cause(_Said):
    """A feature's part in an alert; a number that is not finite comes as null."""

    feature: str
    share: Annotated[float, Field(ge=0, le=1)] | None
    value: Finite | None
    expected: Finite | None


class Alert(_Said):
    """An event above the threshold."""

    time: Finite
    score: Finite | None
    threshold: Finite | None
    version: int
    causes: tuple[Cause, ...]


class Notice(_Said):
    """The start or the end of an incident, as `client.detection.incidents` packs it."""

    kind: Literal["incident_started", "incident_ended"]
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{1,64}$")]
    client: Annotated[str, Field(min_length=1, max_length=255)]
    started: Finite
    ended: Finite | None
    events: Annotated[int, Field(ge=0)]
    alert: Alert

    def kept(self) -> Notice:
        """The notice as it is kept, of bounded size."""
        causes = tuple(
            cause.model_copy(update={"feature": cause.feature[:MAX_FEATURE]})
            for cause in self.alert.causes[:MAX_CAUSES]
        )
        return self.model_copy(update={"alert": self.alert.model_copy(update={"causes": causes})})


class AlertError(ValueError):
    """What was posted is not a notice; says what is wrong with it."""


def parse(content: bytes) -> Notice:
    """The notice in a request's body.

    Raises:
        NotANotice: names the field and what was expected.
    """
    try:
        return Notice.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise AlertError(f"{where}: {first['msg']}") from None


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
    return history.add_notice(notice.client, notice.id, notice.kind, notice.kept().model_dump_json())


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
            said = Notice.model_validate_json(row["content"]).model_dump(exclude={"kind"})
            known |= {**said, "open": known["open"] and not ended}
        known["received_at"] = min(known.get("received_at", row["received_at"]), row["received_at"])
    return list(found.values())
