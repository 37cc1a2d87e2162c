"""Clients' parts of sums, from which detectors follow: who is asked, what is refused, what is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from common.detectors.choice import USING_COVARIANCES, USING_LEAF_COUNTS
from common.model.lag_covariances import SentCovariances, can_be_sent
from common.model.leaf_counts import SentLeafCounts, seed_of
from common.model.manifest import Manifest
from common.protocol.messages import Update
from server.federation.client_records import ClientRecords


def wanted_sums(manifest: Manifest, records: ClientRecords, client: str) -> tuple[bool, bool]:
    """Return whether a client should send covariances, and whether leaf counts, with an update."""
    family, shape, rows = manifest.settings.detector.family, manifest.architecture, records[client].rows or 0
    return (
        family in USING_COVARIANCES
        and can_be_sent(shape.window, shape.features)
        and records.covariances.lacks(client, rows),
        family in USING_LEAF_COUNTS and records.leaf_counts.lacks(client, rows),
    )


def problem_of_sums(update: Update, newest: Manifest) -> tuple[str, str] | None:
    """Return what is wrong with an update's sums, in a word and in a sentence; None if nothing is.

    Their values are between bounds already.
    """
    if update.covariances is not None:
        problem = _problem_of_covariances(update.covariances, update.rows, newest)
        if problem is not None:
            return "covariances", problem
    if update.leaf_counts is not None:
        problem = _problem_of_leaf_counts(update.leaf_counts, update.rows, newest)
        if problem is not None:
            return "leaf counts", problem
    return None


def _problem_of_covariances(sent: SentCovariances, rows: int, newest: Manifest) -> str | None:
    shape = newest.architecture
    if (sent.window, sent.variances.size) != (shape.window, shape.features):
        return (
            f"they are of {sent.variances.size} features at {sent.window} lags, the model has "
            f"{shape.features} and {shape.window}"
        )
    return f"they count {sent.count} windows of {rows} rows" if sent.count > rows else None


def _problem_of_leaf_counts(sent: SentLeafCounts, rows: int, newest: Manifest) -> str | None:
    if sent.seed != (seed := seed_of(newest.settings)):
        return f"they are of trees of the seed {sent.seed}, the fleet's is {seed}"
    return f"they count {sent.count} windows of {rows} rows" if sent.count > rows else None


def with_sums(manifest: Manifest, records: ClientRecords, clients: Collection[str]) -> Manifest:
    """Return a version with what these clients have sent; the same one if it has nearly all of it."""
    family = manifest.settings.detector.family
    if family in USING_COVARIANCES:
        covariances = records.covariances.grown(clients, manifest.covariances)
        manifest = manifest if covariances is None else replace(manifest, covariances=covariances)
    if family in USING_LEAF_COUNTS:
        counts = records.leaf_counts.grown(clients, manifest.leaf_counts)
        manifest = manifest if counts is None else replace(manifest, leaf_counts=counts)
    return manifest
