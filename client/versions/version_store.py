"""The versions a client keeps: the one at work, those before it, one on trial, and those it refused."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError

ENDING = ".safetensors"
KEEP = 5
"""Versions at work until now, and refused ones, that stay on disk."""


class StoreError(UserError):
    """There is no such version here."""


class VersionStore:
    """A client's state folder, as far as it holds versions. The trainer offers; the detector decides.

    Every file is whole or absent. A damaged one is set aside with the reason, and the one before it serves.
    """

    def __init__(self, folder: Path) -> None:
        self._candidate = folder / f"candidate{ENDING}"
        self._trying = folder / f"trying{ENDING}"
        self._versions = folder / "versions"
        self._refused = folder / "refused"
        self._pin = folder / "pinned"
        self._drift = folder / "drifted"
        self.at_work: Path | None = None
        """The file of the version that `current` found, or that was accepted since."""
        self.passed_over: list[str] = []
        """What was wrong with versions that `current` set aside."""
        for place in (self._versions, self._refused):
            place.mkdir(parents=True, exist_ok=True)

    def offer(self, content: bytes) -> None:
        """Put a packed version on trial; the newest one counts."""
        write_atomic(self._candidate, content)

    @property
    def on_trial(self) -> Path:
        """The file of the version that `candidate` returned, until it is accepted or refused."""
        return self._trying

    def candidate(self) -> Manifest | None:
        """The version on trial, if there is one, until it is accepted or refused.

        Raises:
            ManifestError: it cannot be trusted; it was set aside.
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
        """The version on trial is the one at work from now on."""
        kept = self._kept()
        number = int(kept[0].name.split("-")[0]) + 1 if kept else 1
        self.at_work = self._versions / f"{number:06d}-{_name(manifest)}{ENDING}"
        write_atomic(self.at_work, manifest.pack())
        self._trying.unlink(missing_ok=True)
        for path in kept[KEEP - 1 :]:
            if path.name != self.pinned:
                path.unlink()

    def refuse(self, manifest: Manifest, reason: str) -> None:
        """Keep the version on trial for inspection, with the reason beside it."""
        self._set_aside(self._trying, _name(manifest), reason)

    def current(self) -> Manifest | None:
        """The version to work with, pinned or newest; damaged ones before it are set aside and noted."""
        for path in self._kept():
            if self.pinned is not None and path.name != self.pinned:
                continue
            try:
                manifest = Manifest.unpack(path.read_bytes())
            except (ManifestError, OSError) as error:
                self.passed_over.append(f"{path.name}: {error}")
                self._set_aside(path, path.name, str(error))
            else:
                self.at_work = path
                return manifest
        if self.pinned is not None:
            self._pin.unlink(missing_ok=True)
            return self.current()
        return None

    @property
    def pinned(self) -> str | None:
        """The file name of the version that `roll_back` chose; None: the newest works."""
        try:
            return self._pin.read_text()
        except FileNotFoundError:
            return None

    def roll_back(self, version: int | None = None) -> str:
        """Pin a version: the given one, or the one before that at work. Candidates wait until `release`.

        Raises:
            StoreError: it is not here; the message says which are.
        """
        kept = self._kept()
        names = [path.name for path in kept]
        if version is None:
            at = names.index(self.pinned) if self.pinned in names else 0
            chosen = names[at + 1 : at + 2]
        else:
            chosen = [name for name in names if name.split("-")[1] == f"v{version:06d}"][:1]
        if not chosen:
            wanted = "no version before the one at work" if version is None else f"no version {version}"
            raise StoreError(f"{wanted} in {self._versions}; it has {', '.join(names) or 'none'}")
        write_atomic(self._pin, chosen[0].encode())
        return chosen[0]

    def release(self) -> None:
        """Work with the newest version again."""
        self._pin.unlink(missing_ok=True)

    @property
    def drifted(self) -> bool:
        """Whether the detector has said that its stream no longer looks as it did."""
        return self._drift.exists()

    @drifted.setter
    def drifted(self, value: bool) -> None:
        if value:
            self._drift.touch()
        else:
            self._drift.unlink(missing_ok=True)

    def _kept(self) -> list[Path]:
        """Versions on disk, the one that came last first."""
        return sorted(self._versions.glob(f"*{ENDING}"), reverse=True)

    def _set_aside(self, path: Path, name: str, reason: str) -> None:
        stem = name.removesuffix(ENDING)
        path.replace(self._refused / f"{stem}{ENDING}")
        write_atomic(self._refused / f"{stem}.txt", reason.encode())
        for old in sorted(self._refused.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[2 * KEEP :]:
            old.unlink()


def _name(manifest: Manifest) -> str:
    return f"v{manifest.version:06d}-{manifest.hash[:8]}"
