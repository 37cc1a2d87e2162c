"""The registry: the model versions on disk, and the progress that a restarted server continues from."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.formats.bundle import Arrays, BundleError, pack, unpack
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError

log = logging.getLogger(__name__)

_NAME = re.compile(r"v\d{6,}\.safetensors")


@dataclass(frozen=True, eq=False)
class SavedVersion:
    """A version with all that a restart continues from."""

    manifest: Manifest
    progress: Mapping[str, Any]
    """JSON values to continue the run from."""
    memory: Arrays = field(default_factory=dict)
    """The arrays of a strategy with state."""
    step: bytes | None = None
    """The packed step from the version before it."""


class Registry:
    """A folder with one manifest per version, `vNNNNNN.safetensors`, and files beside it with the same stem.

    `.json` is the progress of the run, `.memory` the arrays of a strategy with state, such as FedAdam, and
    `.step` the encoded difference from the previous version.

    Args:
        folder: Created if it does not exist.
        keep: Number of newest versions to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self.damaged: list[str] = []
        """Files that `latest` skipped, each with the reason."""
        self.trouble = ""
        """The reason why the newest version is not on disk; empty if it is."""
        self._unwritten: SavedVersion | None = None
        self._written: int | None = None
        """The version that was written since old ones were deleted; None if there is none."""
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, version: SavedVersion) -> None:
        """Write a version. If that fails, it stays in memory for `save_again`, and `trouble` says why."""
        self._unwritten = version
        self.save_again()

    def save_again(self) -> None:
        """Write the newest version if it is not on disk yet."""
        version = self._unwritten
        if version is None:
            return
        try:
            self.write(version)
        except (OSError, ManifestError) as error:
            self.trouble = f"version {version.manifest.version} is not on disk: {error}"
        else:
            self._unwritten, self.trouble = None, ""

    def write(self, version: SavedVersion) -> Path:
        """Write a version atomically. The manifest is written last, so that a version's other files exist.

        After a power failure the step or the progress may be missing. A version without its step is sent
        whole; one without its progress is skipped by `latest`, and no client knows it yet.

        Old versions stay until `delete_old`, which takes longer than clients should wait for a version.

        Returns:
            The manifest's file.

        Raises:
            OSError: the disk is full or the folder cannot be written; earlier versions are untouched.
            ManifestError: what was written cannot be read; earlier versions are untouched.
        """
        manifest = version.manifest
        path = self._path(manifest.version)
        if version.memory:
            write_atomic(path.with_suffix(".memory"), pack({"version": manifest.version}, version.memory))
        # A damaged version of the same number may have left its step.
        path.with_suffix(".step").unlink(missing_ok=True)
        if version.step is not None:
            write_atomic(path.with_suffix(".step"), version.step, flush="content")
        progress = json.dumps(dict(version.progress), indent=1).encode()
        write_atomic(path.with_suffix(".json"), progress, flush="content")
        write_atomic(path, manifest.pack())
        if Manifest.unpack(path.read_bytes()).hash != manifest.hash:
            raise ManifestError(f"{path} is not what was written to it")
        self._written = manifest.version
        return path

    def delete_old(self) -> None:
        """Delete versions that are no longer kept, if one was written since the last call.

        They are older than the written one, which was read back from its file.
        """
        if self._written is None:
            return
        older = [old for old in self._paths() if self._number(old) < self._written]
        for old in older[: max(0, len(older) - self._keep + 1)]:
            self._delete(old)
        self._written = None

    def memory(self, version: int) -> dict[str, NDArray[Any]]:
        """Return the strategy's arrays at a version; empty if there are none or the file is damaged."""
        path = self._path(version).with_suffix(".memory")
        try:
            return unpack(path.read_bytes())[1]
        except FileNotFoundError:
            return {}
        except (OSError, BundleError) as error:
            log.error("strategy memory cannot be read file=%s reason=%s", path, error)
            return {}

    def steps(self) -> list[bytes]:
        """Return the steps of the versions on disk, oldest first."""
        paths = [path.with_suffix(".step") for path in self._paths()]
        steps = []
        for path in paths:
            try:
                steps.append(path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("version step skipped file=%s reason=%s", path, error)
        return steps

    def latest(self) -> tuple[Manifest, dict[str, Any]] | None:
        """Return the newest readable version and its progress; damaged versions are skipped and logged."""
        for path in reversed(self._paths()):
            try:
                manifest = Manifest.unpack(path.read_bytes())
                progress = json.loads(path.with_suffix(".json").read_text())
                if not isinstance(progress, dict):
                    raise ValueError("the progress is not a JSON object")
            except (OSError, ManifestError, ValueError) as error:
                log.error("damaged version skipped file=%s reason=%s", path, error)
                self.damaged.append(f"{path.name}: {error}")
                continue
            return manifest, progress
        return None

    def _delete(self, path: Path) -> None:
        for ending in (".json", ".memory", ".step", path.suffix):
            try:
                path.with_suffix(ending).unlink(missing_ok=True)
            except OSError as error:
                log.warning("old version not deleted file=%s reason=%s", path.with_suffix(ending), error)

    def _path(self, version: int) -> Path:
        return self._folder / f"v{version:06d}.safetensors"

    def _paths(self) -> list[Path]:
        """Return the manifests' files, oldest version first."""
        paths = (path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        return sorted(paths, key=self._number)

    @staticmethod
    def _number(path: Path) -> int:
        return int(path.stem[1:])
