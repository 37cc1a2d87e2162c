"""A client's parts of sums over the fleet, from which detectors follow; each is sent once."""

from __future__ import annotations

from client.training.client_rows import PreparedRows
from common.model.lag_covariances import LagCovariances, SentCovariances
from common.model.leaf_counts import LeafCounts, SentLeafCounts, seed_of, trees_of
from common.model.manifest import Manifest


def sent_covariances(prepared: PreparedRows, manifest: Manifest) -> SentCovariances:
    """Return the covariances of a client's training rows, scaled for a version."""
    window = manifest.architecture.window
    return SentCovariances.of(LagCovariances.of(prepared.rows, prepared.training_starts, window))


def sent_leaf_counts(prepared: PreparedRows, manifest: Manifest) -> SentLeafCounts:
    """Return the counts of a client's training windows, scaled for a version, in the leaves of its trees."""
    trees, window = trees_of(manifest.settings, manifest.architecture), manifest.architecture.window
    counts = LeafCounts.of(trees, prepared.rows, prepared.training_starts, window)
    return SentLeafCounts.of(counts, seed_of(manifest.settings))
