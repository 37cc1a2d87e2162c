"""Notices on their way to one sink: on disk before they are sent, so that a sink that is down loses none."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.pace import retry_interval_s
from client.sinks import Sink
from common.files import write_atomic

log = logging.getLogger(__name__)

MOST = 100_000
"""Notices that wait at most, in memory and on disk together; beyond it the oldest are lost, and counted."""
DAMAGED = "damaged"


@dataclass
class _Entry:
    number: int
    notice: bytes | None
    """None: on disk only."""
    on_disk: bool = False


class Outbox:
    """A queue with one thread that writes notices to a spool and delivers them, oldest first.

    A crash between a delivery and its note on disk repeats that notice; its id is the same.

    Args:
        sink: Where notices go; closed with the outbox.
        folder: The spool: one file a notice. What an earlier process left there goes first.
        most: Notices that wait at most.
    """

    def __init__(self, sink: Sink, folder: Path, most: int = MOST) -> None:
        self._sink, self._folder, self._most = sink, folder, most
        self._queue: deque[_Entry] = deque()
        self._next = 1
        self._failures = 0
        self._disk_problem: str | None = None
        self._sink_problem: str | None = None
        self._damaged = 0
        self._closing = False
        self._changed = threading.Condition()
        self.delivered = self.lost = 0
        with suppress(OSError):
            self._gather()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def post(self, notice: bytes) -> None:
        """Take a notice; never waits for a disk or a network, never fails."""
        with self._changed:
            self._queue.append(_Entry(self._next, notice))
            self._next += 1
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Notices that are not delivered yet."""
        return len(self._queue)

    @property
    def problem(self) -> str | None:
        """What keeps notices from being delivered, or was lost; None when all is well."""
        parts = []
        if self._sink_problem is not None:
            parts.append(f"{self._sink_problem}; {self.waiting} notices wait")
        if self._disk_problem is not None:
            parts.append(f"spool {self._folder}: {self._disk_problem}; notices wait in memory only")
        if self.lost:
            parts.append(f"{self.lost} notices lost: more than {self._most} waited")
        if self._damaged:
            parts.append(f"{self._damaged} damaged notices set aside in {self._folder / DAMAGED}")
        return "; ".join(parts) or None

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was posted until now is on disk or delivered, at the latest after the timeout."""
        with self._changed:
            wanted = self._next

            def safe() -> bool:
                return all(entry.on_disk for entry in self._queue if entry.number < wanted)

            return self._changed.wait_for(safe, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Deliver what can be delivered at once; the rest stays in the spool."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._sink.close()

    def _gather(self) -> None:
        """Queue what an earlier process left, and set aside what is no notice."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.json")):
            try:
                whole = isinstance(json.loads(path.read_bytes()), dict)
                number = int(path.stem)
            except (ValueError, OSError):
                whole = False
            if whole:
                self._queue.append(_Entry(number, None, on_disk=True))
                self._next = max(self._next, number + 1)
            else:
                (self._folder / DAMAGED).mkdir(exist_ok=True)
                path.replace(self._folder / DAMAGED / path.name)
                self._damaged += 1

    def _run(self) -> None:
        retry_at = 0.0
        while True:
            with self._changed:
                while not self._work_to_do(retry_at):
                    if self._closing:
                        return
                    self._changed.wait(max(0.0, retry_at - time.monotonic()) if self._queue else None)
            self._spool()
            self._drop_oldest()
            if self._queue and (self._closing or time.monotonic() >= retry_at):
                if self._deliver(self._queue[0]):
                    retry_at = 0.0
                elif self._closing:
                    return
                else:
                    retry_at = time.monotonic() + retry_interval_s(self._failures)

    def _work_to_do(self, retry_at: float) -> bool:
        """Whether a notice has to be written, or may be delivered."""
        if not self._queue:
            return False
        may_deliver = self._closing or time.monotonic() >= retry_at
        return may_deliver or (not self._queue[-1].on_disk and self._disk_problem is None)

    def _spool(self) -> None:
        for entry in list(self._queue):
            if entry.on_disk or entry.notice is None:
                continue
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self._path(entry), entry.notice)
            except OSError as error:
                self._disk_problem = error.strerror or str(error)
                return
            entry.on_disk = True
            self._disk_problem = None
        with self._changed:
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        while len(self._queue) > self._most:
            self._forget(self._queue[0])
            self.lost += 1

    def _deliver(self, entry: _Entry) -> bool:
        try:
            notice = entry.notice if entry.notice is not None else self._path(entry).read_bytes()
            self._sink.deliver(notice)
        except OSError as error:
            if self._sink_problem is None:
                log.warning("notice not delivered reason=%s", error)
            self._sink_problem = str(error)
            self._failures += 1
            return False
        self._sink_problem, self._failures = None, 0
        self.delivered += 1
        self._forget(entry)
        return True

    def _forget(self, entry: _Entry) -> None:
        if entry.on_disk:
            with suppress(OSError):
                self._path(entry).unlink()
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()

    def _path(self, entry: _Entry) -> Path:
        return self._folder / f"{entry.number:012d}.json"
