"""The state behind small messages: the version that a client holds, and its error feedback."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from msgspec.structs import replace

from client.transport import feedback_file
from common.bounds import MAX_TEXT
from common.compression.choice import CODEC_NAMES, NONE, STATELESS_CODECS, Block, seeded_rng, supported_spec
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError
from common.model.weights import is_finite
from common.protocol.messages import (
    Task,
    Traffic,
    Update,
    VersionChange,
    VersionMismatchError,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import unpack

log = logging.getLogger(__name__)

MAX_PENDING = 8
"""Updates whose outcome is awaited; a task reports as many (`server.federation.compression`)."""


class CompressionState:
    """Reads tasks that are sent as changes of a version, and encodes updates.

    Args:
        folder: Where the held version and the error feedback survive restarts; None: in memory only.
        keeps: Whether this object lives longer than one message. If not, it offers only codecs that need no
            state, and holds no version.
    """

    def __init__(self, folder: Path | None = None, keeps: bool = True) -> None:
        self._keeps = keeps
        self._held_path = folder / "held.safetensors" if folder is not None else None
        self._feedback_path = folder / "error.safetensors" if folder is not None else None
        self._held = _read_held(self._held_path)
        self._feedback = feedback_file.read(self._feedback_path)
        self._encode_s = self._decode_s = 0.0

    @property
    def codecs(self) -> tuple[str, ...]:
        """Names of the codecs that the server may ask for."""
        return CODEC_NAMES if self._keeps else STATELESS_CODECS

    @property
    def held_hash(self) -> str:
        """Hash of the version that changes may start from; empty: none."""
        return self._held.hash if self._held is not None else ""

    def unpack_task(self, content: bytes, client: str) -> Task | VersionMissing:
        """Return the task in a message, and keep its version if the task asks for it.

        Args:
            content: A packed `WholeVersion` or `VersionChange`.
            client: Name of this client.

        Returns:
            The task; or the answer to the server if the change does not start from the version that is held.

        Raises:
            ProtocolError: it is another message, or damaged.
            ManifestError: the version in it is damaged.
        """
        message = unpack(content, WholeVersion, VersionChange)
        task: Task | VersionMissing
        if isinstance(message, VersionChange):
            started = time.perf_counter()
            task = self._apply(message, client)
            self._decode_s += time.perf_counter() - started
        else:
            task = message.task()
        if isinstance(task, Task) and task.options.keep and self._keeps:
            self._hold(task.manifest)
        return task

    def encode(self, update: Update, task: Task) -> Update:
        """Return the update as the task asks for it: encoded, with what earlier encodings omitted.

        An update that is not finite stays as it is: the server refuses it with a reason.
        """
        codec = supported_spec(task.options.codec, self.codecs)
        state = self._feedback.for_version(_model(task.manifest), task.manifest.version)
        feedback = state.feedback.settled(task.options.used, task.options.waiting)
        difference = feedback.corrected(update.difference)
        if not is_finite(difference) or (codec == NONE and not feedback.error):
            self._feedback = dataclasses.replace(state, feedback=feedback)
            return update
        started = time.perf_counter()
        serial = state.serial + 1
        block = Block.of(codec, difference, seeded_rng(update.client, update.version, task.repeats))
        if self._keeps:
            decoded = block.decoded(task.manifest.architecture.shapes)
            feedback = feedback.after_encoding(serial, update.difference, decoded, MAX_PENDING)
            self._feedback = dataclasses.replace(state, serial=serial, feedback=feedback)
            # Before it is sent: otherwise a crash in between would add the same error to another update.
            feedback_file.write(self._feedback_path, self._feedback)
        self._encode_s += time.perf_counter() - started
        return replace(update, serial=serial, block=block, difference={})

    def traffic(self, socket_traffic: Traffic) -> Traffic:
        """Return the traffic of the sockets with the seconds that encoding and decoding took."""
        return replace(socket_traffic, encode_s=round(self._encode_s, 6), decode_s=round(self._decode_s, 6))

    def _apply(self, change: VersionChange, client: str) -> Task | VersionMissing:
        try:
            if self._held is None:
                raise VersionMismatchError("no version is held")
            return change.applied(self._held)
        except VersionMismatchError as error:
            log.warning("requesting the whole version version=%d reason=%s", change.version, error)
            self._held = None
            return VersionMissing(client, str(error)[:MAX_TEXT])

    def _hold(self, manifest: Manifest) -> None:
        if manifest.hash == self.held_hash:
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
        log.warning("held version lost file=%s reason=%s", path, error)
        return None


def _model(manifest: Manifest) -> str:
    return f"{manifest.schema.features} {manifest.architecture}"
