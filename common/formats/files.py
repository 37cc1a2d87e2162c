"""Atomic writes: a file holds its old content or its new content, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file by `content` atomically, and flush it to disk.

    Args:
        path: The file.
        content: The new content.
        mode: Permissions of the new file, less the umask: 0o600 if others must not read it.

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
