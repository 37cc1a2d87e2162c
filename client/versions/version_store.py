"""The versions that a client stores: in use, earlier ones, on trial and refused."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError

SUFFIX = ".safetensors"
MAX_KEPT = 5
"""Accepted versions that are kept on disk, and refused ones that are."""


class StoreError(UserError):
    """The requested version is not in the store."""


class VersionStore:
    """The versions in a client's state folder.

    The trainer offers versions; the detector accepts or refuses them. Files are written atomically. A damaged
    file is moved to `refused` with the reason, and the version before it is used.
    """

    def __init__(self, folder: Path) -> None:
        self._candidate = folder / f"candidate{SUFFIX}"
        self._trying = folder / f"trying{SUFFIX}"
        self._versions = folder / "versions"
        self._refused = folder / "refused"
        self._pin = folder / "pinned"
        self._drift = folder / "drifted"
        self.current_file: Path | None = None
        """File of the version in use: the last that `current` returned or `accept` stored."""
        self.skipped: list[str] = []
        """Files that `current` could not read, each with the reason."""
        for subfolder in (self._versions, self._refused):
            subfolder.mkdir(parents=True, exist_ok=True)

    def offer(self, content: bytes) -> None:
        """Offer a packed version for trial; it replaces one that was offered before.

        It is not flushed to disk: if the power fails, the trainer makes another one.
        """
        write_atomic(self._candidate, content, flush="nothing")

    @property
    def trial_file(self) -> Path:
        """File of the version that `candidate` returned, until it is accepted or refused."""
        return self._trying

    def candidate(self) -> Manifest | None:
        """Return the version on trial, the newest that was offered; None: there is none.

        It stays on trial until it is accepted or refused, also over a restart.

        Raises:
            ManifestError: the file is damaged; it was moved to `refused`.
        """
        with suppress(FileNotFoundError):
            self._candidate.replace(self._trying)
        try:
            content = self._trying.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return Manifest.unpack(content)
        except ManifestError as error:
            self._set_aside(self._trying, f"damaged-{os.urandom(4).hex()}", str(error))
            raise

    def accept(self, manifest: Manifest) -> None:
        """Store the version on trial as the version in use."""
        files = self._accepted()
        number = int(files[0].name.split("-")[0]) + 1 if files else 1
        self.current_file = self._versions / f"{number:06d}-{_name(manifest)}{SUFFIX}"
        write_atomic(self.current_file, manifest.pack())
        self._trying.unlink(missing_ok=True)
        for path in files[MAX_KEPT - 1 :]:
            if path.name != self.pinned:
                path.unlink()

    def replace_current(self, manifest: Manifest) -> None:
        """Store a version that was adapted to a change of the machine as the version in use.

        Versions that wait for a trial are dropped: they were made for the state of the machine before.
        """
        self._candidate.unlink(missing_ok=True)
        pinned = self.pinned is not None
        self.accept(manifest)
        if pinned and self.current_file is not None:
            write_atomic(self._pin, self.current_file.name.encode())

    def refuse(self, manifest: Manifest, reason: str) -> None:
        """Move the version on trial to `refused`, with a text file of the reason."""
        self._set_aside(self._trying, _name(manifest), reason)

    def current(self) -> Manifest | None:
        """Return the version to use: the pinned or the newest one that can be read; None: there is none."""
        for path in self._accepted():
            if self.pinned is not None and path.name != self.pinned:
                continue
            try:
                manifest = Manifest.unpack(path.read_bytes())
            except (ManifestError, OSError) as error:
                self.skipped.append(f"{path.name}: {error}")
                self._set_aside(path, path.name, str(error))
            else:
                self.current_file = path
                return manifest
        if (pinned := self.pinned) is not None:
            self.skipped.append(
                f"pinned: {pinned[:100]!r} is no version that can be read; the newest is used"
            )
            self._pin.unlink(missing_ok=True)
            return self.current()
        return None

    @property
    def pinned(self) -> str | None:
        """File name of the version that `roll_back` chose; None: the newest version is used."""
        try:
            return self._pin.read_text(errors="replace")
        except FileNotFoundError:
            return None

    def roll_back(self, version: int | None = None) -> str:
        """Pin a version, so that newer ones wait until `release`. Return its file name.

        Args:
            version: Number of the version; None: the one before the version in use.

        Raises:
            StoreError: the version is not in the store; the message lists those that are.
        """
        names = [path.name for path in self._accepted()]
        if version is None:
            at = names.index(self.pinned) if self.pinned in names else 0
            chosen = names[at + 1 : at + 2]
        else:
            chosen = [name for name in names if name.split("-")[1] == f"v{version:06d}"][:1]
        if not chosen:
            wanted = "no version before the one in use" if version is None else f"no version {version}"
            raise StoreError(f"{wanted} in {self._versions}; it has {', '.join(names) or 'none'}")
        write_atomic(self._pin, chosen[0].encode())
        return chosen[0]

    def release(self) -> None:
        """Use the newest version again."""
        self._pin.unlink(missing_ok=True)

    @property
    def drifted(self) -> bool:
        """Whether the detector has found that the scores of its stream have drifted."""
        return self._drift.exists()

    @drifted.setter
    def drifted(self, value: bool) -> None:
        if value:
            self._drift.touch()
        else:
            self._drift.unlink(missing_ok=True)

    def _accepted(self) -> list[Path]:
        """Return the files of accepted versions, the last accepted first."""
        return sorted(self._versions.glob(f"*{SUFFIX}"), reverse=True)

    def _set_aside(self, path: Path, name: str, reason: str) -> None:
        stem = name.removesuffix(SUFFIX)
        path.replace(self._refused / f"{stem}{SUFFIX}")
        write_atomic(self._refused / f"{stem}.txt", reason.encode())
        for old in sorted(self._refused.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[
            2 * MAX_KEPT :
        ]:
            old.unlink()


def _name(manifest: Manifest) -> str:
    return f"v{manifest.version:06d}-{manifest.hash[:8]}"
