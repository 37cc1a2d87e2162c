"""Makes version 0: the clients' moments, and random weights or those of another fleet's version."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from common.bounds import MAX_FEATURES
from common.config import ConfigError
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture, size_of
from common.protocol.messages import Description
from common.settings import Settings
from server.federation.renewal import fleet_moments
from server.versions.transfer import TransferError, transfer_weights


def transfer_source(settings: Settings) -> Manifest | None:
    """Return the version that `federation.start_from` names; None if it is not set.

    Raises:
        TransferError: the file cannot be read.
    """
    file = settings.federation.start_from
    try:
        return Manifest.unpack(file.read_bytes()) if file is not None else None
    except (OSError, ManifestError) as error:
        raise TransferError(f"'federation.start_from' {file}: {error}") from error


def max_features(settings: Settings) -> int:
    """Return the largest number of features whose model has `federation.max_model_mb` at most.

    Raises:
        ConfigError: there is none, or `data.features` declares more.
    """
    limit = settings.federation.max_model_mb

    def size(features: int) -> int:
        """Return the bytes of the model's weights, which are float32."""
        return 4 * size_of(Architecture.from_settings(settings.model, features).shapes)

    most = bisect_right(range(1, MAX_FEATURES + 1), limit << 20, key=size)
    if (count := len(settings.data.features or ("one",))) > most:
        what = f"the {count:,} of 'data.features'" if settings.data.features is not None else "one feature"
        raise ConfigError(
            f"the model of {what} has {size(count) / 2**20:,.1f} MB, more than 'federation.max_model_mb' "
            f"({limit}): set it higher, or make 'model.window' or 'model.hidden' smaller"
        )
    return most


def first_version(
    features: tuple[str, ...], descriptions: Iterable[Description], settings: Settings
) -> Manifest:
    """Return version 0, with the merged moments of the clients that are described (`influence`).

    Raises:
        TransferError: the version that `federation.start_from` names does not fit.
    """
    schema = Schema(features)
    moments = fleet_moments(features, descriptions)
    assert moments is not None  # noqa: S101  it is made when clients can train, for which they need rows
    architecture = Architecture.from_settings(settings.model, len(schema))
    weights, federation = architecture.initial_weights(settings.training.seed), settings.federation
    if (source := transfer_source(settings)) is not None:
        weights = transfer_weights(
            source, schema, architecture, federation.start_names, settings.training.seed
        )
    return Manifest(
        version=0,
        schema=schema,
        architecture=architecture,
        weights=weights,
        moments=moments,
        settings=VersionSettings.of(settings),
    )
