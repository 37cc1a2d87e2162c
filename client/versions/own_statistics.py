"""The parts of personalisation that are statistics of a client's own rows: scaling and input weights."""

from __future__ import annotations

from dataclasses import replace

from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals


def with_own_scaling(manifest: Manifest, own: Moments) -> Manifest:
    """Return the version with the moments that one client scales by (`scaling.by`).

    Args:
        manifest: A version of the fleet.
        own: The client's moments, its features in the version's order.
    """
    return replace(manifest, moments=Moments.chosen(manifest.settings.scaling, manifest.moments, own))


def with_own_residuals(manifest: Manifest, own: Residuals) -> Manifest:
    """Return the version with its residuals blended with the client's own, by `scoring.prior`.

    Args:
        manifest: A version of the fleet, scaled for the client.
        own: Its squared errors on the client's rows.
    """
    scoring = manifest.settings.scoring
    if not scoring.normalise:
        return replace(manifest, residuals=Residuals())
    return replace(manifest, residuals=own.blended_with(manifest.residuals, scoring.prior))
