"""The checkpoint: the position in the stream from which a restarted detector continues."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from common.formats.files import write_atomic

log = logging.getLogger(__name__)

FILE = "source.json"
SAVE_EVERY_S = 1.0
"""Interval between two checkpoints, and the longest wait for the spools at each."""


class Spool(Protocol):
    """The part of an outbox that a checkpoint needs."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all posted notices are on disk or delivered; return False after `timeout_s`."""
        ...


class Checkpoint:
    """Saves the position in the stream after the processed events, once the notices before it are safe.

    Args:
        folder: The client's state folder.
        source: Address of the source.
        spools: Notices that have to be safe before a position is saved.
    """

    def __init__(self, folder: Path, source: str, spools: Sequence[Spool]) -> None:
        self._file = folder / FILE
        self._source, self._spools = source, spools
        self._reached: dict[str, Any] | None = None
        self._saved: dict[str, Any] | None = None

    def reached(self, position: dict[str, Any]) -> None:
        """Record that all events before `position` were scored and their notices posted."""
        self._reached = position

    def save(self) -> None:
        """Write the newest position to disk, unless notices before it are not safe yet.

        Raises:
            OSError: the file cannot be written.
        """
        position = self._reached
        if position is None or position == self._saved:
            return
        if all([spool.flush(SAVE_EVERY_S) for spool in self._spools]):
            content = json.dumps({"source": self._source, "position": position}).encode()
            write_atomic(self._file, content)
            self._saved = position


def saved_position(folder: Path, source: str) -> dict[str, Any] | None:
    """Return the position that an earlier process saved for the same source; None if there is none."""
    file = folder / FILE
    try:
        saved = json.loads(file.read_bytes())
        return dict(saved["position"]) if saved["source"] == source else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("position not read file=%s reason=%s", file, error)
        return None
