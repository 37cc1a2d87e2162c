"""Renews the fleet's moments, by which clients scale their rows, as clients come, go and change.

The moments of version 0 become outdated: there may have been few clients, or wrong ones. Each version is made
with the moments of the connected clients if these clearly differ from the moments in use. The weights change
with them, so that the model computes the same function (`server.versions.rescaling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from msgspec import structs

from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.protocol.messages import Description
from server.federation.replies import AdmittedReply
from server.versions.influence import merged_moments
from server.versions.rescaling import Rescaling, rescaled

MIN_ROWS_SHARE = 0.5
"""Smallest number of rows of the connected clients, as a share of the rows behind the moments in use."""

MAX_RENEWALS = 32
"""Renewals that are remembered for updates of earlier versions."""

Renewal = tuple[int, Rescaling]
"""The version with new moments, and the change of the scaled features."""


def fleet_moments(features: Sequence[str], descriptions: Iterable[Description]) -> Moments | None:
    """Return the moments of the described clients together, each with bounded influence; None without rows.

    Args:
        features: Names of the fleet's features, in the order of the result.
        descriptions: The clients' descriptions, with these features in any order.
    """
    schema = Schema(tuple(features))
    parts = [
        d.moments.take(schema.align(d.schema.features))
        for d in sorted(descriptions, key=lambda d: d.client)
        if d.moments is not None
    ]
    return merged_moments(parts) if parts else None


def renewed(manifest: Manifest, descriptions: Iterable[Description]) -> tuple[Manifest, Rescaling] | None:
    """Return a version with the moments of these clients; None if its own moments are kept.

    Args:
        manifest: The version.
        descriptions: The descriptions of the connected clients.
    """
    merged = fleet_moments(manifest.schema.features, descriptions)
    if merged is None or merged.count < MIN_ROWS_SHARE * manifest.moments.count:
        return None
    return rescaled(manifest, merged)


def carried_over(reply: AdmittedReply, renewals: Iterable[Renewal], window: int) -> AdmittedReply:
    """Return an update as a difference of weights for the newest moments.

    Args:
        reply: An update of any version.
        renewals: The renewals since that version, and possibly earlier ones, oldest first.
        window: Events in a window of the model.
    """
    for version, change in renewals:
        if reply.update.version < version:
            difference = change.of_difference(reply.update.difference, window)
            reply = replace(reply, answer=structs.replace(reply.update, difference=difference))
    return reply
