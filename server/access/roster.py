"""The roster: registered and revoked client keys."""

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
from common.formats.files import private_folder, write_atomic
from common.security.keys import KeyFileError, fingerprint, parse_public_key, public_key_line, public_key_pem
from server.access.audit import AuditLog

log = logging.getLogger(__name__)

FILE = "roster.json"
"""File name in the server's state folder."""


class RosterError(UserError):
    """A key cannot be registered or revoked, or the roster cannot be read; the message says why."""


@dataclass(frozen=True)
class RegisteredClient:
    """One registered key of a client."""

    client: str
    """Name of the client."""
    key: str
    """The public key in OpenSSH format, without a comment."""
    fingerprint: str
    enrolled: str
    """Time of registration, in UTC."""
    revoked: str | None = None
    """Time of revocation, in UTC; None for a valid key."""


class Roster:
    """The registered keys in a server's state folder. Any process may change them while the server runs.

    Args:
        folder: The state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._audit = AuditLog(folder)
        self._file_state: tuple[int, int, int] | None = None
        self._by_header: dict[bytes, RegisteredClient] = {}

    def entries(self) -> list[RegisteredClient]:
        """Return all keys, revoked ones included, oldest first.

        Raises:
            RosterError: the file is damaged or cannot be read.
        """
        try:
            return [RegisteredClient(**entry) for entry in json.loads(self._path.read_bytes())]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise RosterError(f"{self._path}: is damaged: {error}") from error

    def enroll(self, client: str, key: EllipticCurvePublicKey) -> RegisteredClient:
        """Register a key of a client. A client may have several keys, such as its old and its next one.

        Raises:
            RosterError: the key belongs to another client or was revoked; the roster stays as it is.
        """
        with self._locked_entries() as entries:
            for entry in entries:
                if entry.key == public_key_line(key):
                    if entry.revoked:
                        raise RosterError(
                            f"{entry.fingerprint} of '{entry.client}' was revoked on {entry.revoked}: "
                            "a revoked key cannot be registered again; create a new one"
                        )
                    if entry.client != client:
                        raise RosterError(f"{entry.fingerprint} is already the key of '{entry.client}'")
                    return entry
            new = RegisteredClient(client, public_key_line(key), fingerprint(key), _now())
            entries.append(new)
        self._audit.record("enrolled", client, new.fingerprint)
        return new

    def revoke(self, client: str, only: str | None = None) -> list[RegisteredClient]:
        """Revoke a client's keys: its next request is refused.

        Args:
            client: Name of the client.
            only: Fingerprint of the only key to revoke; None for all keys of the client.

        Returns:
            The entries of the revoked keys.

        Raises:
            RosterError: there is no such key.
        """
        with self._locked_entries() as entries:
            of_client = [entry for entry in entries if entry.client == client]
            selected = [entry for entry in of_client if only in (None, entry.fingerprint)]
            if not selected:
                if of_client:
                    fingerprints = ", ".join(entry.fingerprint for entry in of_client)
                    raise RosterError(f"'{client}' has {fingerprints}, not {only}")
                names = ", ".join(sorted({entry.client for entry in entries})) or "none"
                raise RosterError(f"no key of '{client}' is registered; registered clients: {names}")
            revoked, news = [], [entry for entry in selected if not entry.revoked]
            for i, entry in enumerate(entries):
                if entry in selected:
                    entries[i] = entry if entry.revoked else replace(entry, revoked=_now())
                    revoked.append(entries[i])
        for entry in news:
            self._audit.record("revoked", client, entry.fingerprint)
        return revoked

    def find(self, header: bytes) -> RegisteredClient | None:
        """Return the current entry of the key in a request's header; None for an unknown key.

        Raises:
            RosterError: the file is damaged or cannot be read.
        """
        self._refresh()
        return self._by_header.get(header)

    def clients(self) -> frozenset[str]:
        """Return the names of the clients with a valid key.

        Raises:
            RosterError: the file is damaged or cannot be read.
        """
        self._refresh()
        return frozenset(entry.client for entry in self._by_header.values() if not entry.revoked)

    def is_revoked(self, client: str) -> bool:
        """Return whether a client had keys and all of them were revoked.

        Raises:
            RosterError: the file is damaged or cannot be read.
        """
        self._refresh()
        keys = [entry for entry in self._by_header.values() if entry.client == client]
        return bool(keys) and all(entry.revoked for entry in keys)

    def owner(self, public_key: bytes) -> str | None:
        """Return the client that a key in PEM is or was registered for; None for an unknown key."""
        entry = self.find(b64encode(public_key))
        return entry.client if entry is not None else None

    def _refresh(self) -> None:
        """Read the file if it has changed."""
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except FileNotFoundError:
            state = (0, 0, 0)
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be read: {error.strerror}") from error
        if state == self._file_state:
            return
        entries = self.entries()
        try:
            keys = [parse_public_key(entry.key.encode(), str(self._path)) for entry in entries]
        except KeyFileError as error:
            raise RosterError(str(error)) from error
        self._by_header = {
            b64encode(public_key_pem(key)): entry for key, entry in zip(keys, entries, strict=True)
        }
        self._file_state = state
        log.info("roster read keys=%d revoked=%d", len(entries), sum(bool(e.revoked) for e in entries))

    @contextmanager
    def _locked_entries(self) -> Iterator[list[RegisteredClient]]:
        """Lock the roster and yield its entries; changes made in place are written at the end."""
        try:
            private_folder(self._path.parent)
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
