"""The audit log: the clients that were enrolled, revoked, quarantined or refused, with times, as JSON."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from common.display import shortened

log = logging.getLogger(__name__)

FILE = "audit.jsonl"
"""File name in the server's state folder."""
MAX_BYTES = 10 << 20
"""Size at which the file is set aside as `audit.jsonl.1`."""
PARTS = 4
"""Parts that are kept beside the file: `audit.jsonl.1` is the newest of them."""
MAX_REFUSALS = 60
"""Refusals that are recorded in a minute, so that a client that is refused often cannot fill the log."""

Event = Literal["enrolled", "revoked", "quarantined", "refused"]


class AuditLog:
    """Appends to the audit log of a state folder, which several processes may do.

    A line that cannot be written is reported in the log of the process, and lost.

    Args:
        folder: The state folder.
        clock: Returns seconds that never go back.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / FILE, clock
        self._minute_from, self._refusals, self._left_out = clock(), 0, 0

    def record(self, event: Event, client: str, detail: str, peer: str | None = None) -> None:
        """Append a line.

        Args:
            event: What happened.
            client: The client's name, or `unknown`.
            detail: The fingerprint of its key, or the reason.
            peer: The address that a refused request came from.
        """
        if event == "refused" and not self._has_room():
            return
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event,
            "client": shortened(client), "detail": shortened(detail),
            **({"peer": peer} if peer is not None else {}),
        }  # fmt: skip
        if event == "refused" and self._left_out:
            line["left_out_before"] = str(self._left_out)
            self._left_out = 0
        try:
            self._turn_over()
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, json.dumps(line).encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            log.error("audit line lost event=%s client=%s reason=%s", event, client, error)

    def _has_room(self) -> bool:
        """Return whether a further refusal is recorded in this minute; count it if not."""
        now = self._clock()
        if now >= self._minute_from + 60:
            self._minute_from, self._refusals = now, 0
        self._refusals += 1
        if self._refusals > MAX_REFUSALS:
            self._left_out += 1
            return False
        return True

    def _turn_over(self) -> None:
        """Set the file aside if it is full, and delete the oldest part."""
        if not self._path.exists() or self._path.stat().st_size < MAX_BYTES:
            return
        for number in range(PARTS, 1, -1):
            newer = self._path.with_name(f"{FILE}.{number - 1}")
            if newer.exists():
                newer.replace(self._path.with_name(f"{FILE}.{number}"))
        self._path.replace(self._path.with_name(f"{FILE}.1"))
