"""Global versions on disk, each whole before it is announced, and what a restarted server goes on from."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.formats.bundle import Arrays, BundleError, pack, unpack
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError

log = logging.getLogger(__name__)

_NAME = re.compile(r"v\d{6,}\.safetensors")


class Registry:
    """A folder with one `vNNNNNN.safetensors` a version, and beside it the progress of the run.

    Progress is JSON values and, for strategies that remember (FedAdam, FedYogi), named arrays.

    Args:
        folder: Created if need be.
        keep: How many of the newest versions stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        manifest: Manifest,
        progress: dict[str, Any],
        memory: Arrays | None = None,
        step: bytes | None = None,
    ) -> Path:
        """Put a version on disk, atomically, with the progress and the step to it that belong to it.

        The version is written last: where it stands, its progress stands too.

        Raises:
            OSError: the disk is full or the folder cannot be written; the versions before are untouched.
        """
        path = self._path(manifest.version)
        if memory:
            write_atomic(path.with_suffix(".memory"), pack({"version": manifest.version}, memory))
        # A version of this number that was found damaged may have left a step to it.
        path.with_suffix(".step").unlink(missing_ok=True)
        if step is not None:
            write_atomic(path.with_suffix(".step"), step)
        write_atomic(path.with_suffix(".json"), json.dumps(progress, indent=1).encode())
        write_atomic(path, manifest.pack())
        for old in self._paths()[: -self._keep]:
            for ending in ("", ".json", ".memory", ".step"):
                (old.with_suffix(ending) if ending else old).unlink(missing_ok=True)
        return path

    def memory(self, version: int) -> dict[str, NDArray[Any]]:
        """What the strategy remembered at this version; empty if nothing was written, or it is damaged."""
        path = self._path(version).with_suffix(".memory")
        try:
            return unpack(path.read_bytes())[1]
        except FileNotFoundError:
            return {}
        except (OSError, BundleError) as error:
            log.error("the strategy's memory is lost file=%s reason=%s", path, error)
            return {}

    def steps(self) -> list[bytes]:
        """The steps that were written with the versions on disk, oldest first."""
        paths = [path.with_suffix(".step") for path in self._paths()]
        return [path.read_bytes() for path in paths if path.exists()]

    def latest(self) -> tuple[Manifest, dict[str, Any]] | None:
        """The newest version that is sound, with its progress; damaged ones are named in the log."""
        for path in reversed(self._paths()):
            try:
                manifest = Manifest.unpack(path.read_bytes())
                progress = json.loads(path.with_suffix(".json").read_text())
                if not isinstance(progress, dict):
                    raise ValueError("its progress is no JSON object")
            except (OSError, ManifestError, ValueError) as error:
                log.error("version passed over file=%s reason=%s", path, error)
                continue
            return manifest, progress
        return None

    def _path(self, version: int) -> Path:
        return self._folder / f"v{version:06d}.safetensors"

    def _paths(self) -> list[Path]:
        """The versions' files, oldest first; whatever else lies in the folder is not ours."""
        numbers = {path: _NAME.fullmatch(path.name) for path in self._folder.iterdir()}
        return sorted((path for path, name in numbers.items() if name), key=lambda path: int(path.stem[1:]))
