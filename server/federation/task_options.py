"""Chooses the codec of each direction, and builds the task of each client."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from common.compression.choice import (
    CODEC_NAMES,
    NONE,
    STATELESS_CODECS,
    automatic_spec,
    codec_name,
    codec_spec,
    supported_spec,
)
from common.compression.codec import size_of
from common.model.manifest import Manifest
from common.protocol.messages import Description
from common.protocol.tasks import Task, TaskOptions
from common.settings import CompressionSettings
from server.federation.admitted_replies import AdmittedReplies
from server.federation.client_records import ClientRecords

MAX_REPORTED = 8
"""Most serial numbers of applied updates that a task reports to its client: the newest ones."""

MAX_CLIENTS = 10_000
"""Most clients whose serial numbers are kept."""

SCORES_INTERVAL = 5
"""Most versions between two score sketches of a client whose updates are small beside them.

The scores of version `n` serve for at most `n` versions, since those of the first versions differ most.
"""


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
        self._serials = {
            client: tuple(serials)[-MAX_REPORTED:] for client, serials in (saved or {}).items()
        }  # fmt: skip

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
            repeats: How many training tasks of this version the client had before.
            description: The client's.
        """
        return Task(manifest, repeats, self.options(manifest, description))

    def options(self, manifest: Manifest, description: Description) -> TaskOptions:
        """Return how the reply of a client shall travel, and what became of its earlier updates."""
        client, parameters = description.client, size_of(manifest.architecture.shapes)
        speed = self._records.link_speeds([client]).get(client)
        codec = supported_spec(up(self._settings, parameters, speed), description.codecs)
        keeps = self._settings.down != NONE and set(CODEC_NAMES) <= set(description.codecs)
        scored = self._records.scored_version(client)
        fresh = scored is not None and 0 <= manifest.version - scored < min(SCORES_INTERVAL, max(1, scored))
        wants_scores = codec_name(codec) in STATELESS_CODECS or not fresh
        applied, waiting = self._applied.serials(client), self._replies.waiting(client)
        return TaskOptions(codec, keeps, applied, waiting, wants_scores)


def up(settings: CompressionSettings, parameters: int, bytes_per_s: float | None) -> str:
    """Return the codec of a client's updates.

    Args:
        settings: The codecs.
        parameters: Size of the model.
        bytes_per_s: Speed of the client's link; None: unknown.
    """
    if settings.up == "auto":
        return automatic_spec(parameters, bytes_per_s, settings.up_share, settings.zstd)
    return codec_spec(settings.up, settings.up_share, settings.zstd)


def down(settings: CompressionSettings, parameters: int, speeds: Collection[float]) -> str:
    """Return the codec of the next version, which is encoded once for all: the slowest link decides.

    Args:
        settings: The codecs.
        parameters: Size of the model.
        speeds: Of the clients' links, in bytes per second, as far as they are known.
    """
    if settings.down == "auto":
        return automatic_spec(parameters, min(speeds, default=None), settings.down_share, settings.zstd)
    return codec_spec(settings.down, settings.down_share, settings.zstd)
