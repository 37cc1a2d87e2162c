"""The schedule of a warm-up: when a version of the fleet is adapted to this machine, and with which rows."""

from __future__ import annotations

import logging

import numpy as np

from client.buffers.held_back import HeldBackEvents
from client.buffers.recent_events import NORMAL, RecentEvents
from client.buffers.training_buffer import BufferedRows
from client.versions.warm_up import MAX_ROWS, WarmUp, first_estimate_rows, warm_up
from common.model.manifest import Manifest
from common.model.scoring import window_starts

log = logging.getLogger(__name__)


class WarmUpSchedule:
    """Adapts a version of the fleet to this machine, first after a few events and then at each doubling.

    It ends when a version comes that the trainer has personalised, or with an estimate from at least
    `MAX_ROWS` events.

    Args:
        recent: The newest events of the stream.
        held_back: Those of them that are not in the training buffer yet.
        setting: `live.warm_up`.
    """

    def __init__(self, recent: RecentEvents, held_back: HeldBackEvents, setting: int | None) -> None:
        self._recent, self._held_back, self._setting = recent, held_back, setting
        self.restored = 0
        """Events of this machine that the training buffer held when the process started."""
        self._fleet: Manifest | None = None
        self._next = 0
        """Events at which the next estimate is due."""
        self._since = 0
        """Number, in the stream, of the first event after the last estimate."""
        self.wanted: int | None = None
        """Events that the first estimate needs; None: there is no warm-up, or it is over."""

    @property
    def events(self) -> int:
        """Events of this machine so far, including those of earlier processes that are on disk."""
        return self.restored + self._recent.count

    @property
    def until_due(self) -> int | None:
        """Events until the next estimate, 0 if it is due; None: there will be none."""
        return None if self._fleet is None else max(0, self._next - self.events)

    def begin(self, fleet: Manifest) -> None:
        """Make estimates for this version of the fleet, whose features are in the order of the rows."""
        self._fleet = fleet
        self.wanted = self._next = first_estimate_rows(fleet, self._setting)
        log.info("warm-up version=%d events=%d wanted=%d", fleet.version, self.events, self.wanted)

    def end(self) -> None:
        """Make no further estimate."""
        self._fleet = self.wanted = None

    def estimate(self, buffered: BufferedRows) -> WarmUp | None:
        """Return the version adapted by the rows so far, if that is due; else None.

        Args:
            buffered: The rows in the training buffer.
        """
        if self._fleet is None or self.until_due:
            return None
        fleet, events = self._fleet, self._rows(buffered)
        if not len(window_starts(events.rows, events.breaks, fleet.architecture.window)):
            self._next = self.events + fleet.architecture.window
            return None
        warm = warm_up(fleet, events)
        used, self._since, self.wanted = self.events, self._recent.count, None
        self._next = 2 * used
        if used >= MAX_ROWS:
            self.end()
        log.info(
            "version adapted version=%d events=%d rows=%d left_out=%d",
            fleet.version, used, len(warm.normal.rows), len(events.rows) - len(warm.normal.rows),
        )  # fmt: skip
        return warm

    def _rows(self, buffered: BufferedRows) -> BufferedRows:
        """Return the rows for an estimate: the normal ones, unless most of the new ones are abnormal.

        If most are abnormal, the last estimate is assumed to be wrong. The new rows are at most half of all
        rows, so a fault among them does not become normal.
        """
        if self._recent.count > self._since and self._since:
            new = self._recent.since(self._since)
            if len(new.flags) and (new.flags != NORMAL).mean() > 0.5:
                every = self._recent.since(0).rows
                return BufferedRows(every, np.arange(len(every)) == 0)
        held = self._held_back.held()
        return BufferedRows(
            np.concatenate([buffered.rows, held.rows]), np.concatenate([buffered.breaks, held.breaks])
        )
