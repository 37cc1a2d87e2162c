"""Files and folders of state: written atomically, readable by their owner only, logs bounded."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 10 << 20
"""A log that is larger is set aside when the next process begins to write it; one older part is kept."""


def private_folder(path: Path) -> None:
    """Create a folder if it is missing, and let only its owner enter it; a shared one such as /tmp stays so.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.stat().st_mode & stat.S_ISVTX:
        with suppress(OSError):  # a folder of another user, who has given this one access
            path.chmod(0o700)


def turn_over(log: Path) -> None:
    """Rename a log that has become too large to `NAME.1`, in place of the one before."""
    with suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file by `content` atomically, and flush it to disk.

    Args:
        path: The file.
        content: The new content.
        mode: Permissions of the new file, less the umask; by default only its owner may read it.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
