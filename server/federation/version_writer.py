"""Writes versions to the registry, and again later if the disk does not take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from common.model.manifest import Manifest, ManifestError
from server.federation.journal import Journal
from server.storage.registry import Registry

VERSIONS = "versions"
"""The name under which trouble with the registry is reported."""


@dataclass(frozen=True, eq=False)
class SavedVersion:
    """A version with all that a restart continues from."""

    manifest: Manifest
    progress: Mapping[str, Any]
    memory: Mapping[str, NDArray[Any]]
    step: bytes | None
    """The packed step from the version before it."""


class VersionWriter:
    """Writes each version to the registry. The newest one stays in memory until it is on disk.

    Args:
        registry: Where versions are kept.
        journal: Records what cannot be written.
    """

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self._registry = registry
        self._journal = journal
        self._unwritten: SavedVersion | None = None

    def latest(self) -> tuple[Manifest, dict[str, Any]] | None:
        """Return the newest readable version and its progress; what was passed over is recorded."""
        saved = self._registry.latest()
        if self._registry.damaged:
            version = f"version {saved[0].version} is used" if saved is not None else "none can be read"
            self._journal.damage_found(f"{version}; damaged: {'; '.join(self._registry.damaged)}")
        return saved

    def write(self, version: SavedVersion) -> None:
        """Write a version. If that fails, the federation goes on with it from memory."""
        self._unwritten = version
        self.write_again()

    def write_again(self) -> None:
        """Write the newest version if it is not on disk yet."""
        version = self._unwritten
        if version is None:
            return
        try:
            self._registry.write(version.manifest, dict(version.progress), version.memory, version.step)
        except (OSError, ManifestError) as error:
            self._journal.trouble(VERSIONS, f"version {version.manifest.version} is not on disk: {error}")
        else:
            self._unwritten = None
            self._journal.trouble_over(VERSIONS)
