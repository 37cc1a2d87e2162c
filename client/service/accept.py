"""Asks the running detector of a client to treat the values of its open incidents as normal."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from client.maintenance.adaptation import ANSWER, REQUEST
from client.service.identity import Identity, IdentityError
from common.errors import UserError
from common.formats.files import write_atomic

ANSWER_S = 15.0
"""Longest wait for an answer: training may keep the detector's maintenance busy for some seconds."""
POLL_S = 0.1
"""Interval between two looks for the answer, in seconds."""


class AcceptError(UserError):
    """The state of a machine cannot be accepted as normal; the message says why."""


def accept(folder: Path) -> str:
    """Ask the running detector of a state folder to treat the values of its open incidents as normal.

    Returns:
        The values that are normal from now on, for people.

    Raises:
        AcceptError: no detector runs with this folder, no incident is open, or there is no answer.
    """
    if not folder.is_dir():
        raise AcceptError(f"{folder}: no such state folder; pass the --name or the --state of the client")
    with suppress(IdentityError):
        Identity(folder, "detector").release()
        raise AcceptError(f"{folder}: no client runs with this state folder; start it, then accept")
    (folder / ANSWER).unlink(missing_ok=True)
    write_atomic(folder / REQUEST, b"")
    deadline = time.monotonic() + ANSWER_S
    while not (folder / ANSWER).exists():
        if time.monotonic() > deadline:
            (folder / REQUEST).unlink(missing_ok=True)
            raise AcceptError(f"{folder}: the client has not answered for {ANSWER_S:.0f} s; see its /healthz")
        time.sleep(POLL_S)
    text = (folder / ANSWER).read_text()
    (folder / ANSWER).unlink(missing_ok=True)
    if not text:
        raise AcceptError(f"{folder}: no incident is open, so there is nothing to accept")
    return text
