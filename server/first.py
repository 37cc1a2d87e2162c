"""Version 0: what the clients that are there say of their data, and weights that are drawn."""

from __future__ import annotations

from collections.abc import Iterable

from common.architecture import Architecture
from common.manifest import Manifest
from common.messages import Description
from common.moments import Moments
from common.schema import Schema
from common.settings import Settings

TRAINED_UNDER = {"model", "training", "scaling", "scoring", "threshold"}
"""The sections of the settings that travel with a version."""


def first_version(
    features: tuple[str, ...], descriptions: Iterable[Description], settings: Settings
) -> Manifest:
    """Version 0, with the moments of all clients that are described."""
    schema = Schema(features)
    moments = Moments.merge_all(
        d.moments.select(schema.align(d.schema.features))
        for d in sorted(descriptions, key=lambda d: d.client)
    )
    architecture = Architecture.of(settings.model, len(schema))
    return Manifest(
        version=0,
        schema=schema,
        architecture=architecture,
        weights=architecture.first_weights(settings.training.seed),
        moments=moments,
        settings=settings.model_dump(mode="json", include=TRAINED_UNDER),
    )
