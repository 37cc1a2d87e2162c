"""Version 0: what the clients that are there say of their data, and weights that are drawn."""

from __future__ import annotations

from collections.abc import Iterable

from common.model.architecture import Architecture
from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.transfer import TransferError, transferred
from common.model.version_settings import VersionSettings
from common.protocol.messages import Description
from common.settings import Settings


def transfer_source(settings: Settings) -> Manifest | None:
    """The version of another fleet that the settings name, if they do.

    Raises:
        TransferError: it cannot be read.
    """
    file = settings.federation.start_from
    try:
        return Manifest.unpack(file.read_bytes()) if file is not None else None
    except (OSError, ManifestError) as error:
        raise TransferError(f"'federation.start_from' {file}: {error}") from error


def first_version(
    features: tuple[str, ...], descriptions: Iterable[Description], settings: Settings
) -> Manifest:
    """Version 0, with the moments of all clients that are described.

    Raises:
        TransferError: it cannot start from the version of another fleet that the settings name.
    """
    schema = Schema(features)
    moments = Moments.merge_all(
        d.moments.select(schema.align(d.schema.features))
        for d in sorted(descriptions, key=lambda d: d.client)
    )
    architecture = Architecture.of(settings.model, len(schema))
    weights, federation = architecture.first_weights(settings.training.seed), settings.federation
    if (source := transfer_source(settings)) is not None:
        weights = transferred(source, schema, architecture, federation.start_names, settings.training.seed)
    return Manifest(
        version=0,
        schema=schema,
        architecture=architecture,
        weights=weights,
        moments=moments,
        settings=VersionSettings.of(settings),
    )
