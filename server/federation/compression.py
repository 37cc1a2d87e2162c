"""Compression of versions and updates: codecs, tasks, and the chain of steps between versions.

Each step is one encoded difference, the same for all clients. What an encoding leaves out is not part of the
version: the server publishes exactly what its clients can reconstruct, and adds the rest to the next version
(error feedback, as the clients do).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bounds import Count, Hash
from common.compression.choice import (
    CODEC_NAMES,
    NONE,
    STATELESS_CODECS,
    Block,
    automatic_spec,
    codec_name,
    codec_spec,
    seeded_rng,
    supported_spec,
)
from common.compression.codec import Feedback
from common.detectors.choice import USING_SUMS
from common.formats import bundle
from common.formats.bundle import BundleError
from common.model.manifest import Manifest
from common.model.weights import Weights, add, is_finite, shapes, size_of, subtract
from common.protocol.messages import Description, Task, TaskOptions
from common.settings import CompressionSettings
from server.federation.client_records import ClientRecords
from server.federation.replies import AdmittedReplies
from server.federation.sums import wanted_sums

log = logging.getLogger(__name__)

MAX_REPORTED = 8
"""Most serial numbers of applied updates that a task reports to its client: the newest ones."""

MAX_CLIENTS = 10_000
"""Most clients whose serial numbers are kept."""

SCORES_INTERVAL = 5
"""Most versions between two histograms of the scores of a client whose updates are small beside them.

The scores of version `n` serve for at most `n` versions, since those of the first versions differ most.
"""

_PREFIX = "left/"
"""Prefix of the names under which the error feedback is saved."""


class AppliedUpdates:
    """Serial numbers of each client's newest updates that became part of a version.

    Args:
        saved: What `to_json` returned.

    >>> applied = AppliedUpdates()
    >>> applied.add("a", 7); applied.add("a", 0)
    >>> applied.serials("a"), applied.serials("b")
    ((7,), ())
    """

    def __init__(self, saved: Mapping[str, Sequence[int]] | None = None) -> None:
        try:
            known = msgspec.convert(saved or {}, dict[str, tuple[int, ...]])
        except msgspec.ValidationError as error:
            log.error("serial numbers of applied updates not read reason=%s", error)
            known = {}
        self._serials = {client: serials[-MAX_REPORTED:] for client, serials in known.items()}

    def add(self, client: str, serial: int) -> None:
        """Add an update; 0 is not a serial number."""
        if serial:
            before = self._serials.pop(client, ())
            self._serials[client] = (*before, serial)[-MAX_REPORTED:]
            if len(self._serials) > MAX_CLIENTS:
                self._serials.pop(next(iter(self._serials)))

    def serials(self, client: str) -> tuple[int, ...]:
        """Return the client's newest serial numbers, oldest first."""
        return self._serials.get(client, ())

    def to_json(self) -> dict[str, list[int]]:
        """Return all serial numbers as JSON values."""
        return {client: list(serials) for client, serials in self._serials.items()}


class TaskBuilder:
    """Builds tasks: a version, and how the reply shall travel.

    Args:
        settings: The codecs.
        records: The speed of each client's link, and the age of its scores.
        replies: The updates that wait for aggregation.
        applied: The updates that became part of a version.
    """

    def __init__(
        self,
        settings: CompressionSettings,
        records: ClientRecords,
        replies: AdmittedReplies,
        applied: AppliedUpdates,
    ) -> None:
        self._settings = settings
        self._records = records
        self._replies = replies
        self._applied = applied

    def task(self, manifest: Manifest, repeats: int, description: Description) -> Task:
        """Return the task of one client.

        Args:
            manifest: The version.
            repeats: Number of training tasks of this version that the client had before.
            description: The client's.
        """
        return Task(manifest, repeats, self.options(manifest, description))

    def options(self, manifest: Manifest, description: Description) -> TaskOptions:
        """Return how a client should encode its reply, and which of its earlier updates were used."""
        client, parameters = description.client, size_of(manifest.architecture.shapes)
        speed = self._records.link_speeds([client]).get(client)
        codec = supported_spec(update_codec(self._settings, parameters, speed), description.codecs)
        keeps = self._settings.down != NONE and set(CODEC_NAMES) <= set(description.codecs)
        scored = self._records.scored_version(client)
        fresh = scored is not None and 0 <= manifest.version - scored < min(SCORES_INTERVAL, max(1, scored))
        wants_scores = codec_name(codec) in STATELESS_CODECS or not fresh
        applied, waiting = self._applied.serials(client), self._replies.waiting(client)
        sums = (False, False)
        if manifest.settings.detector.family in USING_SUMS:
            sums = wanted_sums(manifest, self._records, client)
        return TaskOptions(codec, keeps, applied, waiting, wants_scores, *sums)


def update_codec(settings: CompressionSettings, parameters: int, bytes_per_s: float | None) -> str:
    """Return the codec of a client's updates.

    Args:
        settings: The codecs.
        parameters: Size of the model.
        bytes_per_s: Speed of the client's link; None: unknown.
    """
    if settings.up == "auto":
        return automatic_spec(parameters, bytes_per_s, settings.up_share, settings.zstd)
    return codec_spec(settings.up, settings.up_share, settings.zstd)


def version_codec(settings: CompressionSettings, parameters: int, speeds: Collection[float]) -> str:
    """Return the codec of the next version, which is encoded once for all: the slowest link decides.

    Args:
        settings: The codecs.
        parameters: Size of the model.
        speeds: The known speeds of the clients' links, in bytes per second.
    """
    if settings.down == "auto":
        return automatic_spec(parameters, min(speeds, default=None), settings.down_share, settings.zstd)
    return codec_spec(settings.down, settings.down_share, settings.zstd)


class VersionStep(msgspec.Struct, frozen=True):
    """The encoded difference between two consecutive versions, which server and clients add to the first."""

    version: Count
    """The later version."""
    base: Hash
    """Hash of the earlier version."""
    hash: Hash
    """Hash of the later version."""
    block: Block

    def pack(self) -> bytes:
        """Return the step as the content of a file."""
        fields = {"version": self.version, "base": self.base, "hash": self.hash, "block": self.block.codec}
        return bundle.pack(fields, {"block": np.frombuffer(self.block.content, np.uint8)})

    @classmethod
    def unpack(cls, content: bytes) -> VersionStep:
        """Return the step of `pack`.

        Raises:
            BundleError: the bytes are damaged, or not a step.
        """
        fields, arrays = bundle.unpack(content)
        try:
            block = (fields["block"], arrays["block"].tobytes())
            return msgspec.convert({**fields, "block": block}, cls)
        except (KeyError, ValueError) as error:
            raise BundleError(f"not a step between versions: {error}") from error


class VersionChain:
    """The steps to the newest version, and the error feedback of its encoding.

    Args:
        steps: Packed steps, oldest first; damaged ones are logged and skipped.
        memory: What `memory` returned when the newest version was written.
    """

    def __init__(self, steps: Iterable[bytes] = (), memory: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._steps: dict[str, VersionStep] = {}
        for content in steps:
            try:
                step = VersionStep.unpack(content)
            except BundleError as error:
                log.error("version step skipped reason=%s", error)
            else:
                self._steps[step.base] = step
        named = (memory or {}).items()
        rest = {n.removeprefix(_PREFIX): array for n, array in named if n.startswith(_PREFIX)}
        self._feedback = Feedback(rest if is_finite(rest) else {})

    def encoded(self, current: Manifest, weights: Weights, codec: str) -> tuple[Weights, Block | None]:
        """Encode the step to the next version.

        Args:
            current: The newest version.
            weights: The aggregated weights.
            codec: Of the step.

        Returns:
            The weights to publish, which are those that clients reconstruct, and the encoded step. Without a
            codec they are the aggregated weights, and there is no step.
        """
        difference = subtract(weights, current.weights)
        expected = shapes(current.weights)
        if self._feedback.error and shapes(self._feedback.error) != expected:
            self._feedback = Feedback()
        corrected = self._feedback.corrected(difference)
        if codec == NONE or not is_finite(corrected):
            self._feedback = Feedback()
            return (add(current.weights, corrected), None) if is_finite(corrected) else (weights, None)
        block = Block.of(codec, corrected, seeded_rng("server", current.version + 1))
        decoded = block.decoded(expected)
        with np.errstate(over="ignore", invalid="ignore"):
            published = add(current.weights, decoded)
        if not is_finite(published):
            self._feedback = Feedback()
            return weights, None
        self._feedback = Feedback(self._feedback.after_encoding(0, difference, decoded, 1).error)
        return published, block

    @property
    def feedback(self) -> Feedback:
        """The differences that the encodings so far have left out. To set it back undoes an encoding."""
        return self._feedback

    @feedback.setter
    def feedback(self, earlier: Feedback) -> None:
        self._feedback = earlier

    def extend(self, current: Manifest, manifest: Manifest, block: Block | None) -> VersionStep | None:
        """Add the step between two versions and return it; None without a block."""
        if block is None:
            return None
        step = VersionStep(manifest.version, current.hash, manifest.hash, block)
        self._steps[step.base] = step
        return step

    def keep_from(self, version: int) -> None:
        """Remove the steps to earlier versions."""
        self._steps = {base: step for base, step in self._steps.items() if step.version >= version}

    def path(self, held: str, to: Manifest, codecs: Iterable[str]) -> tuple[VersionStep, ...] | None:
        """Return the steps from one version to another; None if there are none, or the model is smaller.

        Args:
            held: Hash of the first version.
            to: The last version.
            codecs: Names of the codecs that the client can decode.
        """
        steps: list[VersionStep] = []
        max_bytes, known = 4 * size_of(to.architecture.shapes), set(codecs)
        while held != to.hash:
            step = self._steps.get(held)
            if step is None or step.version > to.version or codec_name(step.block.codec) not in known:
                return None
            max_bytes -= len(step.block.content)
            if max_bytes <= 0:
                return None
            steps.append(step)
            held = step.hash
        return tuple(steps)

    def memory(self) -> dict[str, NDArray[Any]]:
        """Return the error feedback, which must survive a restart, as named arrays."""
        return {_PREFIX + name: array for name, array in self._feedback.error.items()}
