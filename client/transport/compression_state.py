"""The state behind small messages: the version that a client holds, and its error feedback."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from common.bounds import MAX_TEXT
from common.compression.choice import CODEC_NAMES, NONE, STATELESS_CODECS, Block, seeded_rng, supported_spec
from common.compression.codec import Feedback
from common.formats.bundle import BundleError, as_dataclass, pack, unpack
from common.formats.files import write_atomic
from common.model.manifest import Manifest, ManifestError
from common.model.weights import Weights, is_finite, shapes
from common.protocol import wire
from common.protocol.messages import (
    Task,
    Traffic,
    Update,
    VersionChange,
    VersionMismatchError,
    VersionMissing,
    WholeVersion,
)

log = logging.getLogger(__name__)

MAX_PENDING = 8
"""Updates whose outcome is awaited. A task reports the same number (`server.federation.compression`)."""


_ERROR = "error"


@dataclass(frozen=True)
class _FeedbackHeader:
    """The fields of the file with the error feedback."""

    model: str
    version: int
    serial: int
    pending: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FeedbackState:
    """Error feedback, the model that it belongs to, and the serial number of the last update."""

    model: str = ""
    """Features and architecture. Feedback of another model cannot be used."""
    version: int = -1
    """Version that the last update started from. An earlier version belongs to another run."""
    serial: int = field(default_factory=lambda: secrets.randbits(40))
    """Serial number of the last update. The first is random, so that a lost file does not repeat numbers."""
    feedback: Feedback = field(default_factory=Feedback)

    def for_version(self, model: str, version: int) -> FeedbackState:
        """Return the state for a task; without feedback if this is of another model or another run."""
        usable = model == self.model and version >= self.version
        return FeedbackState(model, version, self.serial, self.feedback if usable else Feedback())


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
        self._feedback = _read_feedback(self._feedback_path)
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
        message = wire.unpack(content, WholeVersion, VersionChange)
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
            if self._feedback_path is not None:
                _write_feedback(self._feedback_path, self._feedback)
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


def _read_feedback(path: Path | None) -> FeedbackState:
    """Return the state that was written last; an empty one if there is no file, or a damaged one (logged)."""
    if path is None:
        return FeedbackState()
    try:
        fields, arrays = unpack(path.read_bytes())
        header = as_dataclass(_FeedbackHeader, fields)
        error = _group(arrays, _ERROR)
        pending = {serial: _group(arrays, str(serial)) for serial in header.pending}
        parts = [error, *pending.values()]
        if not all(shapes(part) == shapes(error) and is_finite(part) for part in parts):
            raise BundleError("its arrays do not match")
        return FeedbackState(header.model, header.version, header.serial, Feedback(error, pending))
    except FileNotFoundError:
        return FeedbackState()
    except (OSError, ValueError, TypeError) as error:
        log.error("error feedback lost file=%s reason=%s", path, error)
        return FeedbackState()


def _write_feedback(path: Path, state: FeedbackState) -> None:
    """Write the state, without flushing it to disk: it is large, and written with each update.

    A full disk is logged: then a restart loses the feedback, but not the update.
    """
    header = {
        "model": state.model, "version": state.version, "serial": state.serial,
        "pending": list(state.feedback.pending),
    }  # fmt: skip
    groups = {_ERROR: state.feedback.error, **{str(n): s for n, s in state.feedback.pending.items()}}
    arrays = {f"{group}/{name}": array for group, part in groups.items() for name, array in part.items()}
    try:
        write_atomic(path, pack(header, arrays), flush="nothing")
    except OSError as error:
        log.error("error feedback not written file=%s reason=%s", path, error)


def _group(arrays: Weights, group: str) -> Weights:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _model(manifest: Manifest) -> str:
    return f"{manifest.schema.features} {manifest.architecture}"
