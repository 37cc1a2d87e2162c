"""Renews the fleet's moments, by which clients scale their rows, as clients come, go and change.

Moments that version 0 was made with do not stay true: the clients of then may have been few, or wrong. Each
version is made with the moments of the clients that are there, if these differ plainly from those in use
(`common.model.rescaling`). The change is folded into the weights, so the model goes on as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from msgspec import structs

from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.rescaling import Rescaling, rescaled
from common.protocol.messages import Description
from server.federation.influence import merged_moments
from server.federation.replies import AdmittedReply

MIN_ROWS_SHARE = 0.5
"""Rows of the clients that are there, as a share of the rows that the moments in use are of, at least."""

MAX_RENEWALS = 32
"""Renewals that are remembered for updates of earlier versions."""

Renewal = tuple[int, Rescaling]
"""The version that came with new moments, and how scaled features changed."""


def fleet_moments(features: Sequence[str], descriptions: Iterable[Description]) -> Moments | None:
    """Return the moments of the described clients together, with bounded influence of each; None of none.

    Args:
        features: Names of the fleet's features, in the order of the result.
        descriptions: The clients', with these features in any order.
    """
    parts = [
        d.moments.take([d.schema.features.index(name) for name in features])
        for d in sorted(descriptions, key=lambda d: d.client)
        if d.moments is not None
    ]
    return merged_moments(parts) if parts else None


def renewed(manifest: Manifest, descriptions: Iterable[Description]) -> tuple[Manifest, Rescaling] | None:
    """Return a version with the moments of these clients; None if it keeps those that it has.

    Args:
        manifest: The version.
        descriptions: Of the clients that are there.
    """
    merged = fleet_moments(manifest.schema.features, descriptions)
    if merged is None or merged.count < MIN_ROWS_SHARE * manifest.moments.count:
        return None
    return rescaled(manifest, merged)


def carried_over(reply: AdmittedReply, renewals: Iterable[Renewal], window: int) -> AdmittedReply:
    """Return an update as a difference of weights for the newest moments.

    Args:
        reply: An update of any version.
        renewals: All that may have come since, oldest first.
        window: Events in a window of the model.
    """
    for version, change in renewals:
        if reply.update.version < version:
            difference = change.of_difference(reply.update.difference, window)
            reply = replace(reply, answer=structs.replace(reply.update, difference=difference))
    return reply
