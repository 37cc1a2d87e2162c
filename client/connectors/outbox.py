"""The outbox of a sink: notices are written to disk before delivery, so that none is lost."""

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
from client.connectors.sinks.contract import AnsweredError, NotYetError, RefusedError, reason
from common.backoff import retry_interval_s
from common.formats.files import write_atomic

log = logging.getLogger(__name__)

MAX_WAITING = 100_000
"""Number of notices that may wait; beyond it the oldest are dropped and counted as lost."""
DAMAGED = "damaged"
"""Folder in the spool for files that are not notices."""
REFUSED = "refused"
"""Folder in the spool for notices that the sink refuses. They are sent again when the next process starts."""
SUSPECT_AFTER, SUSPECT_AMONG = 12, 16
"""Failed attempts after which another notice is tried (a minute), and the oldest notices it is one of."""
TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of reading that are not errors of the file."""


class Outbox:
    """A queue of notices, with a thread that writes them to a spool and delivers them, oldest first.

    A notice that cannot be written to disk is delivered from memory. After a crash between a delivery and the
    removal of the file, the notice is delivered again with the same id.

    Args:
        sink: The sink; it is closed with the outbox.
        folder: The spool, with one file per notice. Notices from an earlier process are delivered first.
        max_waiting: Number of notices that may wait on disk, and the same number in memory.
        retry_s: Returns the seconds until the next attempt after a number of failures.
    """

    def __init__(
        self,
        sink: Sink,
        folder: Path,
        max_waiting: int = MAX_WAITING,
        retry_s: Callable[[int], float] = retry_interval_s,
    ) -> None:
        self._sink, self._folder = sink, folder
        self._max_waiting, self._retry_s = max_waiting, retry_s
        self._spooled: deque[int] = deque()
        """Numbers of the files in the spool, oldest first; all are older than the notices in memory."""
        self._unwritten: deque[bytes] = deque()
        """Notices that are in memory only, oldest first."""
        self._removed = 0
        """Number of notices that have left memory: written, delivered or lost."""
        self._next: int | None = None
        """Number of the next file; None until the spool has been listed."""
        self._failures = self._damaged = self._refused = 0
        self._refusal = ""
        self._suspect: int | None = None
        """The oldest notice, if the sink has taken another one since it last failed; None: it has not."""
        self._pause_s = 0.0
        """The pause that the sink has asked for."""
        self._disk_problem: str | None = None
        self._sink_problem: str | None = None
        self._deadline: float | None = None
        self._woken = False
        self._changed = threading.Condition()
        self._disk = threading.Lock()
        self.delivered = self.lost = 0
        self._spool()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def post(self, notice: bytes) -> None:
        """Add a notice. It does not wait for a disk or a network, and does not fail."""
        with self._changed:
            if len(self._unwritten) >= self._max_waiting:
                self._pop_unwritten(self._removed)
                self.lost += 1
            self._unwritten.append(notice)
            self._wake()

    @property
    def waiting(self) -> int:
        """Number of notices that are not delivered yet."""
        with self._changed:
            return len(self._spooled) + len(self._unwritten)

    @property
    def problem(self) -> str | None:
        """The current problems of delivery, with what was lost; None without one."""
        parts = []
        if self._sink_problem is not None:
            parts.append(f"{self._sink_problem}; {self.waiting} notices wait")
        if self._disk_problem is not None:
            unwritten = len(self._unwritten)
            parts.append(
                f"spool {self._folder}: {self._disk_problem}; {unwritten} notices are in memory only"
            )
        if self.lost:
            parts.append(f"{self.lost} notices lost: more than {self._max_waiting} waited")
        if self._damaged:
            parts.append(f"{self._damaged} damaged notices set aside in {self._folder / DAMAGED}")
        if self._refused:
            parts.append(
                f"{self._refusal}; {self._refused} notices refused, set aside in {self._folder / REFUSED}, "
                "and sent again at the next start"
            )
        return "; ".join(parts) or None

    def flush(self, timeout_s: float) -> bool:
        """Wait until all notices posted so far are on disk or delivered; return False after the timeout."""
        with self._changed:
            wanted = self._removed + len(self._unwritten)
            self._wake()
            return self._changed.wait_for(lambda: self._removed >= wanted, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Deliver notices until the timeout or the first failure; the rest stays in the spool."""
        with self._changed:
            self._deadline = time.monotonic() + timeout_s
            self._wake()
        self._thread.join(timeout_s)
        self._spool()
        if not self._thread.is_alive():
            self._sink.close()

    def _wake(self) -> None:
        self._woken = True
        self._changed.notify_all()

    def _run(self) -> None:
        retry_at = 0.0
        while True:
            self._spool()
            while self._spooled and self.waiting > self._max_waiting:
                self._remove(self._spooled[0], lost=True)
            deadline = self._deadline
            if deadline is not None and time.monotonic() >= deadline:
                return
            if self.waiting and (deadline is not None or time.monotonic() >= retry_at):
                done = self._deliver()
                pause_s = max(self._pause_s, 0.0 if done else self._retry_s(self._failures))
                retry_at = 0.0 if done else time.monotonic() + pause_s
            with self._changed:
                if deadline is not None and (retry_at or not self.waiting):
                    return
                if not self._woken:
                    self._changed.wait(max(0.0, retry_at - time.monotonic()) if self.waiting else None)
                self._woken = False

    def _spool(self) -> None:
        """Write the notices in memory to the spool, until the disk fails."""
        with self._disk:
            try:
                if self._next is None:
                    self._next = self._list()
                while (oldest := self._oldest_unwritten()) is not None:
                    sequence, notice = oldest
                    write_atomic(self._path(self._next), notice)
                    with self._changed:
                        self._spooled.append(self._next)
                        self._pop_unwritten(sequence)
                    self._next += 1
                self._disk_problem = None
            except OSError as error:
                if self._disk_problem is None:
                    log.warning("notice not written spool=%s reason=%s", self._folder, error)
                self._disk_problem = reason(error)

    def _list(self) -> int:
        """Queue the notices of an earlier process; return the number of the next file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(".*.partial"):
            partial.unlink()
        for path in (self._folder / REFUSED).glob("*.json"):
            path.replace(self._folder / path.name)
        numbers = []
        for path in self._folder.glob("*.json"):
            if path.stem.isdecimal() and path == self._path(int(path.stem)):
                numbers.append(int(path.stem))
            else:
                self._set_aside(path)
        with self._changed:
            self._spooled.extend(sorted(numbers))
        return max(numbers, default=0) + 1

    def _deliver(self) -> bool:
        """Try to deliver the oldest notice; return False if that failed."""
        number = self._spooled[0] if self._spooled else None
        sequence, notice = self._oldest_unwritten() or (self._removed, None)
        try:
            if number is not None:
                notice = self._read(self._path(number))
            if notice is not None:
                self._sink.deliver(notice)
        except RefusedError as error:
            self._set_refused(number, sequence, error)
            return True
        except Exception as error:  # a defect in a sink must not end the thread
            if isinstance(error, AnsweredError) and number is not None and number == self._suspect:
                self._set_refused(number, sequence, error)
                return True
            self._note_failure(error)
            is_suspect = isinstance(error, AnsweredError) and self._failures >= SUSPECT_AFTER
            if not is_suspect or number is None or not self._takes_another():
                return False
            self._suspect = number  # the sink may be well again: it is tried once more
            return True
        if notice is not None:
            self._sink_problem, self._failures, self._pause_s = None, 0, 0.0
            self.delivered += 1
        if number is not None:
            self._remove(number)
        else:
            self._pop_unwritten(sequence)
        return True

    def _note_failure(self, error: Exception) -> None:
        if self._sink_problem is None:
            log.warning("notice not delivered reason=%s", error, exc_info=not isinstance(error, OSError))
        self._sink_problem = reason(error)
        self._failures += 1
        self._suspect = None
        self._pause_s = error.after_s if isinstance(error, NotYetError) else 0.0

    def _takes_another(self) -> bool:
        """Try one of the next notices; return whether the sink takes it."""
        others = [*self._spooled][1:SUSPECT_AMONG]
        if not others:
            return False
        number = others[self._failures % len(others)]
        try:
            notice = self._read(self._path(number))
            if notice is not None:
                self._sink.deliver(notice)
                self.delivered += 1
        except Exception:  # as the oldest one
            return False
        self._remove(number)
        return notice is not None

    def _read(self, path: Path) -> bytes | None:
        """Return the notice in a file of the spool; if it is not one, set the file aside and return None."""
        try:
            notice = path.read_bytes()
            if isinstance(json.loads(notice), dict):
                return notice
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno in TRANSIENT:
                raise
        self._set_aside(path)
        return None

    def _set_aside(self, path: Path) -> None:
        self._damaged += 1
        with suppress(OSError):
            (self._folder / DAMAGED).mkdir(exist_ok=True)
            path.replace(self._folder / DAMAGED / path.name)

    def _set_refused(self, number: int | None, sequence: int, error: OSError) -> None:
        """Set the oldest notice aside; it is lost if it is in memory only, or too many are set aside."""
        if not self._refused:
            log.warning("notice refused spool=%s reason=%s", self._folder, error)
        self._sink_problem, self._failures, self._pause_s = None, 0, 0.0
        self._refused += 1
        self._refusal = reason(error)
        if number is None:
            self._pop_unwritten(sequence)
            self.lost += 1
            return
        if self._refused <= self._max_waiting:
            with suppress(OSError):
                (self._folder / REFUSED).mkdir(exist_ok=True)
                self._path(number).replace(self._folder / REFUSED / self._path(number).name)
        self._remove(number, lost=self._refused > self._max_waiting)

    def _remove(self, number: int, lost: bool = False) -> None:
        with suppress(OSError):
            self._path(number).unlink(missing_ok=True)
        with self._changed:
            self._spooled.remove(number)
            self.lost += lost

    def _oldest_unwritten(self) -> tuple[int, bytes] | None:
        """Return the sequence number of the oldest notice in memory, and the notice."""
        with self._changed:
            return (self._removed, self._unwritten[0]) if self._unwritten else None

    def _pop_unwritten(self, sequence: int) -> None:
        """Remove the oldest notice from memory, unless it was dropped since its number was read."""
        with self._changed:
            if sequence == self._removed and self._unwritten:
                self._unwritten.popleft()
                self._removed += 1
                self._changed.notify_all()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"
