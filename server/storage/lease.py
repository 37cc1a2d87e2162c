"""Which ServerApp works on a state folder, whether it lives, and how its run ended."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from common.formats.files import write_atomic

PATIENCE_S = 1.0
"""How long a lease is tried for: to ask whether it is held takes it for a moment, too."""


class LeaseTakenError(RuntimeError):
    """Another ServerApp works on this state folder."""


class Lease:
    """A lock that the kernel takes back when its holder dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._result = folder / "ended"
        self._path = folder / "lease"

    def __enter__(self) -> Self:
        self._file = self._path.open("a+")
        deadline = time.monotonic() + PATIENCE_S
        while not _locked(self._file):
            if time.monotonic() > deadline:
                self._file.close()
                raise LeaseTakenError(f"{self._path.parent}: another run works on this state folder")
            time.sleep(PATIENCE_S / 20)
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def clear(self) -> None:
        """Forget how an earlier run ended."""
        self._result.unlink(missing_ok=True)

    def finish(self, reason: str) -> None:
        """Say that the run came to its end, and why."""
        write_atomic(self._result, reason.encode())

    @property
    def held(self) -> bool:
        """Whether a living ServerApp works on the folder."""
        with self._path.open("a+") as file:
            return not _locked(file)

    @property
    def ended(self) -> str | None:
        """Why the last run ended, or None if it did not come to an end."""
        try:
            return self._result.read_text()
        except FileNotFoundError:
            return None


def _locked(file: IO[str]) -> bool:
    """Lock the file, unless another open file holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
