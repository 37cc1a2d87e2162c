"""Which codec each direction has, and what each client must know of its updates to settle its errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from common.compression.choice import NAMES, NONE, STATELESS, automatic, name_of, spec_of, supported
from common.protocol.messages import Description, TaskOptions
from common.settings import CompressionSettings

MAX_REPORTED = 8
"""Of each client's updates that became part of a version, so many are told, the newest."""

MAX_CLIENTS = 10_000

SCORES_EVERY = 5
"""Most versions between two sketches of a client's scores, where they are not small beside its updates.

Those of a younger version serve for as many versions as it is old: the first ones differ most.
"""


class AppliedUpdates:
    """Serial numbers of the updates that were folded, by client.

    >>> fates = AppliedUpdates()
    >>> fates.folded("a", 7); fates.folded("a", 0)
    >>> fates.of("a"), fates.of("b")
    ((7,), ())
    """

    def __init__(self, saved: Mapping[str, Sequence[int]] | None = None) -> None:
        self._folded = {client: tuple(serials)[-MAX_REPORTED:] for client, serials in (saved or {}).items()}

    def folded(self, client: str, serial: int) -> None:
        """An update has become part of a version. 0 is no serial number."""
        if serial:
            before = self._folded.pop(client, ())
            self._folded[client] = (*before, serial)[-MAX_REPORTED:]
            if len(self._folded) > MAX_CLIENTS:
                self._folded.pop(next(iter(self._folded)))

    def of(self, client: str) -> tuple[int, ...]:
        """The newest that were."""
        return self._folded.get(client, ())

    def saved(self) -> dict[str, list[int]]:
        """All of them as JSON values."""
        return {client: list(serials) for client, serials in self._folded.items()}


def up(settings: CompressionSettings, parameters: int, bytes_per_s: float | None) -> str:
    """The codec that a client with this link is to use."""
    if settings.up == "auto":
        return automatic(parameters, bytes_per_s, settings.up_share, settings.zstd)
    return spec_of(settings.up, settings.up_share, settings.up_rank, settings.zstd)


def down(settings: CompressionSettings, parameters: int, speeds: Collection[float]) -> str:
    """The codec of the next version: all clients are sent the same, so the slowest link decides."""
    if settings.down == "auto":
        return automatic(parameters, min(speeds, default=None), settings.down_share, settings.zstd)
    return spec_of(settings.down, settings.down_share, settings.down_rank, settings.zstd)


def task_options(
    settings: CompressionSettings,
    description: Description,
    parameters: int,
    bytes_per_s: float | None,
    used: tuple[int, ...],
    waiting: tuple[int, ...],
    version: int = 0,
    scored: int | None = None,
) -> TaskOptions:
    """What a client is told with its task.

    Args:
        settings: As set.
        description: The client's.
        parameters: Of the model.
        bytes_per_s: Of its link; None: not known.
        used: Its newest updates that were folded, by serial number.
        waiting: Those that wait to be.
        version: The task's.
        scored: The one that its newest scores are of; None: there are none.
    """
    codec = supported(up(settings, parameters, bytes_per_s), description.codecs)
    keeps = settings.down != NONE and set(NAMES) <= set(description.codecs)
    fresh = scored is not None and 0 <= version - scored < min(SCORES_EVERY, max(1, scored))
    asked = name_of(codec) in STATELESS or not fresh
    return TaskOptions(codec, keeps, used, waiting, asked)
