"""The clients' registered keys: who may take part, and who may no longer."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from common.errors import UserError
from common.formats.files import write_atomic
from common.security.keys import KeyFileError, fingerprint, parse_public_key, public_key_line, public_key_pem

log = logging.getLogger(__name__)

FILE = "roster.json"
"""In the server's state folder."""


class RosterError(UserError):
    """A key cannot be registered or revoked, or the roster cannot be read; says why."""


@dataclass(frozen=True)
class RegisteredClient:
    """One registered key."""

    client: str
    key: str
    """As in a `.pub` file, without its comment."""
    fingerprint: str
    enrolled: str
    """When, in UTC."""
    revoked: str | None = None
    """When; None for a key that counts."""


class Roster:
    """The registered keys of a server's state folder. Any process may change them while the server runs.

    Args:
        folder: The state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._read: tuple[int, int, int] | None = None
        self._by_header: dict[bytes, RegisteredClient] = {}

    def entries(self) -> list[RegisteredClient]:
        """All keys that were ever registered, oldest first.

        Raises:
            RosterError: the file is damaged, or cannot be read.
        """
        try:
            found = json.loads(self._path.read_bytes())
            return [RegisteredClient(**entry) for entry in found]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise RosterError(f"{self._path}: is damaged: {error}") from error

    def enroll(self, client: str, key: EllipticCurvePublicKey) -> RegisteredClient:
        """Let a client take part under a name, by a key. It may have several: the old and the next.

        Raises:
            RosterError: the key belongs to another name, or was revoked; nothing changes.
        """
        with self._changing() as entries:
            for entry in entries:
                if entry.key == public_key_line(key):
                    if entry.revoked:
                        raise RosterError(
                            f"{entry.fingerprint} of '{entry.client}' was revoked on {entry.revoked}: "
                            "a revoked key never counts again; make a new one"
                        )
                    if entry.client != client:
                        raise RosterError(f"{entry.fingerprint} is already the key of '{entry.client}'")
                    return entry
            new = RegisteredClient(client, public_key_line(key), fingerprint(key), _now())
            entries.append(new)
        return new

    def revoke(self, client: str, only: str | None = None) -> list[RegisteredClient]:
        """Shut a client out: its next request is refused.

        Args:
            client: Its name.
            only: Fingerprint of the one key that is revoked; None: all of the client.

        Raises:
            RosterError: there is no such key.
        """
        with self._changing() as entries:
            mine = [entry for entry in entries if entry.client == client]
            chosen = [entry for entry in mine if only in (None, entry.fingerprint)]
            if not chosen:
                if mine:
                    raise RosterError(f"'{client}' has {', '.join(e.fingerprint for e in mine)}, not {only}")
                known = ", ".join(sorted({entry.client for entry in entries})) or "nobody"
                raise RosterError(f"no key of '{client}' is registered; registered: {known}")
            revoked = []
            for place, entry in enumerate(entries):
                if entry in chosen:
                    entries[place] = entry if entry.revoked else replace(entry, revoked=_now())
                    revoked.append(entries[place])
        return revoked

    def find(self, header: bytes) -> RegisteredClient | None:
        """The entry of a key as a request names it, by the file as it is now; None for an unknown one.

        Raises:
            RosterError: the file is damaged, or cannot be read.
        """
        self._refresh()
        return self._by_header.get(header)

    def owner(self, public_key: bytes) -> str | None:
        """The client that a key in PEM belongs or belonged to; None for an unknown one."""
        entry = self.find(b64encode(public_key))
        return entry.client if entry is not None else None

    def _refresh(self) -> None:
        """Read the file again if it is another than before."""
        try:
            stat = self._path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except FileNotFoundError:
            mark = (0, 0, 0)
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be read: {error.strerror}") from error
        if mark == self._read:
            return
        entries = self.entries()
        try:
            keys = [parse_public_key(entry.key.encode(), str(self._path)) for entry in entries]
        except KeyFileError as error:
            raise RosterError(str(error)) from error
        self._by_header = {
            b64encode(public_key_pem(key)): entry for key, entry in zip(keys, entries, strict=True)
        }
        self._read = mark
        log.info("roster read keys=%d revoked=%d", len(entries), sum(bool(e.revoked) for e in entries))

    @contextmanager
    def _changing(self) -> Iterator[list[RegisteredClient]]:
        """The entries, to be changed in place by one process at a time, and then written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                entries = self.entries()
                before = list(entries)
                yield entries
                if entries != before:
                    content = json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1)
                    write_atomic(self._path, content.encode())
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be written: {error.strerror}") from error


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
