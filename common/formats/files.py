"""Files and folders of state: written atomically, readable by their owner only, logs bounded."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

LOG_BYTES, LOG_DAYS = 10 << 20, 90
"""Usual size at which a log is set aside, and usual days for which the part is kept."""
_DAY_S = 86400.0

Flush = Literal["all", "content", "nothing"]
"""Parts of a file that are flushed to disk: content and name, the content alone, or neither."""


def private_folder(path: Path) -> None:
    """Create a folder if it is missing, and let only its owner enter it; a shared one such as /tmp stays so.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.stat().st_mode & stat.S_ISVTX:
        with suppress(OSError):  # a folder of another user, who has given this one access
            path.chmod(0o700)


def turn_over(log: Path, max_bytes: int = LOG_BYTES, max_days: float = LOG_DAYS, open_: bool = False) -> None:
    """Set a log that has become too large aside as `NAME.1`, and delete such a part when it is too old.

    Args:
        log: The log.
        max_bytes: Size from which it is too large.
        max_days: Days since the last line of the part, after which it is too old.
        open_: Whether a process appends to the log: then it is copied and emptied. What the process writes
            meanwhile is lost.
    """
    part = log.with_name(f"{log.name}.1")
    with suppress(OSError):
        if part.stat().st_mtime < time.time() - max_days * _DAY_S:
            part.unlink()
    with suppress(OSError):
        if log.stat().st_size <= max_bytes:
            return
        if open_:
            shutil.copyfile(log, part)
            os.truncate(log, 0)
        else:
            log.replace(part)


def write_atomic(path: Path, content: bytes, mode: int = 0o600, flush: Flush = "all") -> None:
    """Replace the file by `content` atomically, and flush it to disk.

    Args:
        path: The file.
        content: The new content.
        mode: Permissions of the new file, less the umask; by default only its owner may read it.
        flush: What is flushed to disk. The name need not be if another file is written to the same folder
            next, as that flushes the names of both. With "nothing" the file survives the end of the process,
            but not a loss of power. The old file is deleted first, because some file systems flush a file
            that replaces another: in between there is none.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            if flush == "nothing":
                path.unlink(missing_ok=True)
            else:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if flush != "all":
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
