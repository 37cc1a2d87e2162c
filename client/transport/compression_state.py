"""What this client keeps so that its messages can be small: the version it holds, and the error it owes."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from msgspec.structs import replace

from client.transport import feedback_file
from common.compression.choice import NAMES, NONE, STATELESS, Block, rng_of, supported
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError
from common.model.weights import is_finite
from common.protocol.messages import Update
from common.protocol.tasks import Task, VersionChange, VersionMismatchError, VersionMissing, WholeVersion
from common.protocol.traffic import Traffic
from common.protocol.wire import unpack

log = logging.getLogger(__name__)

MAX_PENDING = 8
"""Updates whose fate is waited for; the server tells of as many."""


class CompressionState:
    """Between messages and the edge.

    Args:
        folder: Where the version and the error are kept over restarts; None: only in memory.
        keeps: Whether this object outlives a message. One that does not holds nothing, and says so.
    """

    def __init__(self, folder: Path | None = None, keeps: bool = True) -> None:
        self._keeps = keeps
        self._held_path = folder / "held.safetensors" if folder is not None else None
        self._error_path = folder / "error.safetensors" if folder is not None else None
        self._held = _read_held(self._held_path)
        self._kept = feedback_file.read(self._error_path)
        self._encode_s = self._decode_s = 0.0

    @property
    def codecs(self) -> tuple[str, ...]:
        """Names of the codecs that may be asked for."""
        return NAMES if self._keeps else STATELESS

    @property
    def held(self) -> str:
        """Hash of the version that a change may start from; empty: none."""
        return self._held.hash if self._held is not None else ""

    def opened(self, content: bytes, client: str) -> Task | VersionMissing:
        """The task in a message, whether it came whole or as a change of the version that is held.

        Raises:
            ProtocolError: it is neither.
        """
        message: WholeVersion | VersionChange = unpack(content, WholeVersion, VersionChange)
        task: Task | VersionMissing
        if isinstance(message, VersionChange):
            started = time.perf_counter()
            task = self._changed(message, client)
            self._decode_s += time.perf_counter() - started
        else:
            task = message.task()
        if isinstance(task, Task) and task.options.keep and self._keeps:
            self._hold(task.manifest)
        return task

    def packed(self, update: Update, task: Task) -> Update:
        """The update as it shall travel, with the error of earlier ones, and its own error kept."""
        codec = supported(task.options.codec, self.codecs)
        kept = self._kept.fitting(_model(task.manifest), task.manifest.version)
        owed = kept.feedback.settled(task.options.used, task.options.waiting)
        difference = owed.carried(update.difference)
        if not is_finite(difference) or (codec == NONE and not owed.error):
            # Whether it can be used is for the server to say. Nothing is left out.
            self._kept = dataclasses.replace(kept, feedback=owed)
            return update
        started = time.perf_counter()
        serial = kept.serial + 1
        block = Block.of(codec, difference, rng_of(update.client, update.version, task.repeats))
        if self._keeps:
            decoded = block.decoded(task.manifest.architecture.shapes)
            owed = owed.after(serial, update.difference, decoded, MAX_PENDING)
            self._kept = dataclasses.replace(kept, serial=serial, feedback=owed)
            # Before it is sent: an update that was sent and forgotten would be owed a second time.
            feedback_file.write(self._error_path, self._kept)
        self._encode_s += time.perf_counter() - started
        return replace(update, serial=serial, block=block, difference={})

    def traffic(self, of_sockets: Traffic) -> Traffic:
        """With the seconds that encoding and decoding took here."""
        return replace(
            of_sockets, encode_s=round(self._encode_s, 6), decode_s=round(self._decode_s, 6)
        )  # fmt: skip

    def _changed(self, change: VersionChange, client: str) -> Task | VersionMissing:
        try:
            if self._held is None:
                raise VersionMismatchError("no version is held")
            return change.applied(self._held)
        except VersionMismatchError as error:
            log.warning("asking for the whole version version=%d reason=%s", change.version, error)
            self._held = None
            return VersionMissing(client, str(error))

    def _hold(self, manifest: Manifest) -> None:
        if manifest.hash == self.held:
            return
        self._held = manifest
        if self._held_path is not None:
            try:
                write_atomic(self._held_path, manifest.pack())
            except OSError as error:
                log.warning("version not kept version=%d reason=%s", manifest.version, error)


def _read_held(path: Path | None) -> Manifest | None:
    try:
        return Manifest.unpack(path.read_bytes()) if path is not None else None
    except FileNotFoundError:
        return None
    except (ManifestError, OSError) as error:
        log.warning("the version held is lost file=%s reason=%s", path, error)
        return None


def _model(manifest: Manifest) -> str:
    return f"{manifest.schema.features} {manifest.architecture}"
