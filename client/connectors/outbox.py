"""Notices on their way to one sink: on disk before they are sent, so that a sink that is down loses none."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from client.connectors.sinks import Sink
from client.connectors.sinks.contract import reason
from common.backoff import retry_interval_s
from common.formats.files import write_atomic

log = logging.getLogger(__name__)

MOST = 100_000
"""Notices that wait at most; beyond it the oldest are lost, and counted."""
DAMAGED = "damaged"
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of reading that say nothing about the file that was to be read."""


class Outbox:
    """A queue with one thread that writes notices to a spool and delivers them, oldest first.

    A notice that cannot be written is delivered from memory. A crash between a delivery and the removal of
    its file repeats that notice; its id is the same.

    Args:
        sink: Where notices go; closed with the outbox.
        folder: The spool: one file a notice. What an earlier process left there goes first.
        most: Notices that wait at most on disk, and at most in memory.
        retry_s: Seconds until the next attempt after so many failures.
    """

    def __init__(
        self,
        sink: Sink,
        folder: Path,
        most: int = MOST,
        retry_s: Callable[[int], float] = retry_interval_s,
    ) -> None:
        self._sink, self._folder, self._most, self._retry_s = sink, folder, most, retry_s
        self._spooled: deque[int] = deque()
        """Numbers of the files in the spool, oldest first; all are older than what is in memory."""
        self._fresh: deque[bytes] = deque()
        """In memory only."""
        self._settled = 0
        """Posted notices that have left memory: written, delivered or lost."""
        self._next: int | None = None
        """Number of the next file; None until the spool of an earlier process has been listed."""
        self._failures = self._damaged = 0
        self._disk_problem: str | None = None
        self._sink_problem: str | None = None
        self._deadline: float | None = None
        self._called = False
        self._changed = threading.Condition()
        self._disk = threading.Lock()
        self.delivered = self.lost = 0
        self._spool()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def post(self, notice: bytes) -> None:
        """Take a notice; never waits for a disk or a network, never fails."""
        with self._changed:
            if len(self._fresh) >= self._most:
                self._settle(self._settled)
                self.lost += 1
            self._fresh.append(notice)
            self._call()

    @property
    def waiting(self) -> int:
        """Notices that are not delivered yet."""
        with self._changed:
            return len(self._spooled) + len(self._fresh)

    @property
    def problem(self) -> str | None:
        """What keeps notices from being delivered, or was lost; None when all is well."""
        parts = []
        if self._sink_problem is not None:
            parts.append(f"{self._sink_problem}; {self.waiting} notices wait")
        if self._disk_problem is not None:
            parts.append(
                f"spool {self._folder}: {self._disk_problem}; {len(self._fresh)} notices are in memory only"
            )
        if self.lost:
            parts.append(f"{self.lost} notices lost: more than {self._most} waited")
        if self._damaged:
            parts.append(f"{self._damaged} damaged notices set aside in {self._folder / DAMAGED}")
        return "; ".join(parts) or None

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was posted until now is on disk or delivered, at the latest after the timeout."""
        with self._changed:
            wanted = self._settled + len(self._fresh)
            self._call()
            return self._changed.wait_for(lambda: self._settled >= wanted, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Deliver what the sink takes until the timeout or its first refusal; the rest stays in the spool."""
        with self._changed:
            self._deadline = time.monotonic() + timeout_s
            self._call()
        self._thread.join(timeout_s)
        self._spool()
        if not self._thread.is_alive():
            self._sink.close()

    def _call(self) -> None:
        self._called = True
        self._changed.notify_all()

    def _run(self) -> None:
        retry_at = 0.0
        while True:
            self._spool()
            while self._spooled and self.waiting > self._most:
                self._remove(self._spooled[0], lost=True)
            last_chance = self._deadline
            if last_chance is not None and time.monotonic() >= last_chance:
                return
            if self.waiting and (last_chance is not None or time.monotonic() >= retry_at):
                retry_at = 0.0 if self._deliver() else time.monotonic() + self._retry_s(self._failures)
            with self._changed:
                if last_chance is not None and (retry_at or not self.waiting):
                    return
                if not self._called:
                    self._changed.wait(max(0.0, retry_at - time.monotonic()) if self.waiting else None)
                self._called = False

    def _spool(self) -> None:
        """Write all that is in memory only, as far as the disk takes it."""
        with self._disk:
            try:
                if self._next is None:
                    self._next = self._list()
                while (oldest := self._oldest_fresh()) is not None:
                    turn, notice = oldest
                    write_atomic(self._path(self._next), notice)
                    with self._changed:
                        self._spooled.append(self._next)
                        self._settle(turn)
                    self._next += 1
                self._disk_problem = None
            except OSError as error:
                if self._disk_problem is None:
                    log.warning("notice not written spool=%s reason=%s", self._folder, error)
                self._disk_problem = reason(error)

    def _list(self) -> int:
        """Queue what an earlier process left; returns the number of the next file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(".*.partial"):
            partial.unlink()
        found = []
        for path in self._folder.glob("*.json"):
            if path.stem.isdecimal() and path == self._path(int(path.stem)):
                found.append(int(path.stem))
            else:
                self._set_aside(path)
        with self._changed:
            self._spooled.extend(sorted(found))
        return max(found, default=0) + 1

    def _deliver(self) -> bool:
        """Try the oldest notice; False when it has to wait."""
        number = self._spooled[0] if self._spooled else None
        turn, notice = self._oldest_fresh() or (self._settled, None)
        try:
            if number is not None:
                notice = self._read(self._path(number))
            if notice is not None:
                self._sink.deliver(notice)
        except Exception as error:  # a sink with a fault of its own must not end the thread
            if self._sink_problem is None:
                log.warning("notice not delivered reason=%s", error, exc_info=not isinstance(error, OSError))
            self._sink_problem = reason(error)
            self._failures += 1
            return False
        if notice is not None:
            self._sink_problem, self._failures = None, 0
            self.delivered += 1
        if number is not None:
            self._remove(number)
        else:
            self._settle(turn)
        return True

    def _read(self, path: Path) -> bytes | None:
        """A notice of the spool; None, and the file is set aside, when it is not one."""
        try:
            notice = path.read_bytes()
            if isinstance(json.loads(notice), dict):
                return notice
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
        self._set_aside(path)
        return None

    def _set_aside(self, path: Path) -> None:
        self._damaged += 1
        with suppress(OSError):
            (self._folder / DAMAGED).mkdir(exist_ok=True)
            path.replace(self._folder / DAMAGED / path.name)

    def _remove(self, number: int, lost: bool = False) -> None:
        with suppress(OSError):
            self._path(number).unlink(missing_ok=True)
        with self._changed:
            self._spooled.popleft()
            self.lost += lost

    def _oldest_fresh(self) -> tuple[int, bytes] | None:
        """Its turn, to settle it with, and the notice."""
        with self._changed:
            return (self._settled, self._fresh[0]) if self._fresh else None

    def _settle(self, turn: int) -> None:
        """Let a notice leave memory, unless it was dropped since it was looked at."""
        with self._changed:
            if turn == self._settled and self._fresh:
                self._fresh.popleft()
                self._settled += 1
                self._changed.notify_all()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"
