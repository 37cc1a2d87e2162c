"""The lease of a state folder: ensures one ServerApp at a time, and records how its run ended."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from common.formats.files import write_atomic

ACQUIRE_WITHIN_S = 1.0
"""Time for which to try: `Lease.held` locks the file for a moment, too."""


class LeaseTakenError(RuntimeError):
    """Another ServerApp uses the state folder."""


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Hold the lock that a server process has on its state folder, so that there is one server at a time.

    Raises:
        LeaseTakenError: another process holds it.
    """
    with (folder / "server.lock").open("a+") as file:
        if not _locked(file):
            raise LeaseTakenError(f"{folder}: another server uses this state folder")
        yield


class Lease:
    """A file lock on a state folder, held while its context is open; the kernel frees it if the process dies.

    Args:
        folder: The state folder.

    Raises:
        LeaseTakenError: on entering the context, if another process holds the lease.
    """

    def __init__(self, folder: Path) -> None:
        self._result = folder / "ended"
        self._path = folder / "lease"
        self._probe: int | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("a+")
        deadline = time.monotonic() + ACQUIRE_WITHIN_S
        while not _locked(self._file):
            if time.monotonic() > deadline:
                self._file.close()
                raise LeaseTakenError(f"{self._path.parent}: another run uses this state folder")
            time.sleep(ACQUIRE_WITHIN_S / 20)
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def clear(self) -> None:
        """Delete the record of how the previous run ended."""
        self._result.unlink(missing_ok=True)

    def finish(self, reason: str) -> None:
        """Record that the run has ended, and why."""
        write_atomic(self._result, reason.encode())

    @property
    def held(self) -> bool:
        """Whether a process holds the lease. Only the first call opens a file, so no later one can fail."""
        if self._probe is None:
            self._probe = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            weakref.finalize(self, os.close, self._probe)
        if not _locked(self._probe):
            return True
        fcntl.flock(self._probe, fcntl.LOCK_UN)
        return False

    @property
    def ended(self) -> str | None:
        """The reason why the run ended; None if it has not ended or its process died."""
        if not self._result.exists():  # asked often, and needs no descriptor
            return None
        try:
            return self._result.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # no descriptor is free: the next call reads it
                return None
            raise


def _locked(file: IO[str] | int) -> bool:
    """Try to lock the file; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
