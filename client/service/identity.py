"""Who this client is: a random id kept in its state folder, and a lock so that one process owns it."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from common.errors import UserError


class IdentityError(UserError):
    """The state folder belongs to another running client, or cannot be written."""


class Identity:
    """A claim on a state folder, held until the process ends or `release` is called.

    A client that restarts with the same folder is the same client to the server; another machine that
    was given the same name by mistake is not.
    """

    def __init__(self, folder: Path, part: str = "instance") -> None:
        """Claim a `part` of `folder`, creating it if need be: the trainer and the detector each claim theirs.

        Raises:
            IdentityError: another process holds it, or it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = (folder / part).open("a+")
        except OSError as error:
            raise IdentityError(f"{folder}: cannot keep client state here: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise IdentityError(
                f"{folder}: in use by another running client; give each its own state folder"
            ) from error
        self._file.seek(0)
        self.instance = self._file.read().strip() or self._draw()

    def release(self) -> None:
        """Let another process claim the folder."""
        self._file.close()

    def _draw(self) -> str:
        instance = secrets.token_hex(8)
        self._file.write(instance)
        self._file.flush()
        os.fsync(self._file.fileno())
        return instance
