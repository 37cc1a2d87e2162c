"""The identity of a client: a random id in its state folder, with a lock so that one process uses it."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import IO

from common.errors import UserError
from common.formats.files import private_folder

_ID = re.compile(rb"[0-9a-f]{16}")
_MAX_BYTES = 64


class IdentityError(UserError):
    """The state folder belongs to another running client, or cannot be written."""


class Identity:
    """An exclusive lock on a part of a state folder, held until `release` or the end of the process.

    `instance` distinguishes a client that restarts with the same folder from another one of the same name.

    Args:
        folder: The client's state folder; it is created if it does not exist.
        part: Name of the lock file: the trainer and the detector of a client lock different ones.

    Raises:
        IdentityError: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path, part: str = "instance") -> None:
        try:
            private_folder(folder)
            self._file: IO[bytes] = (folder / part).open("a+b")
        except OSError as error:
            raise IdentityError(f"{folder}: cannot keep client state here: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise IdentityError(
                f"{folder}: in use by another running client; give each its own state folder"
            ) from error
        self._file.seek(0)
        known = self._file.read(_MAX_BYTES).strip()
        self.instance = known.decode() if _ID.fullmatch(known) else self._new_id()
        """Random id of the client, 16 hexadecimal digits; a new one if the file is damaged."""

    def release(self) -> None:
        """Release the lock."""
        self._file.close()

    def _new_id(self) -> str:
        instance = secrets.token_hex(8)
        self._file.truncate(0)
        self._file.write(instance.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        return instance
