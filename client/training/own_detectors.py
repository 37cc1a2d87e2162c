"""The detectors that a machine fits to its rows, to score beside the fleet's autoencoder or in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.training.client_rows import PreparedRows
from common.detectors.choice import (
    AUTOENCODER,
    FAMILIES,
    FLEET_FOREST,
    IN_PLACE,
    OF_COVARIANCES,
    OWN_DETECTORS,
)
from common.detectors.contract import OwnDetector, WindowDetector
from common.detectors.ensemble import EnsembleState, voting_weights
from common.detectors.isolation_forest import IsolationForest, leaf_shares
from common.detectors.tail import CalibratedTail
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import LagCovariances
from common.model.leaf_counts import LeafCounts, trees_of
from common.model.manifest import Manifest
from common.model.scoring import version_scores, windows_at

MIN_WINDOWS, MIN_HELD_OUT = 50, 10
"""Windows to fit to and windows to calibrate on; with fewer of them the autoencoder scores alone."""
MAX_WINDOWS = 8192
"""Windows, evenly chosen, that detectors are fitted to or calibrated on."""


def with_own_detectors(manifest: Manifest, prepared: PreparedRows) -> Manifest:
    """Return a version that scores by the detectors of its family (`detector.family`).

    They are fitted to the training rows, and the tails of all are those of the held-out rows. Where the
    version has no sums over the fleet, the detectors that use them are fitted to the own rows alone.
    The version's score histogram becomes that of the scores of the held-out rows. With too few rows the
    autoencoder scores alone.

    Args:
        manifest: A version that is personalised apart from this.
        prepared: The client's rows, scaled for it.
    """
    held_out = _chosen(prepared.held_out_starts)
    if len(prepared.training_starts) < MIN_WINDOWS:
        return manifest
    held_out_windows = windows_at(prepared.rows, held_out, manifest.architecture.window)
    states, tails = {}, {}
    for name in _members(manifest):
        detector: WindowDetector
        if name == AUTOENCODER:
            detector = manifest.autoencoder()
        else:
            own = fitted(name, manifest, prepared)
            detector, states[name] = own, own.state
        scores = detector.score_many(held_out_windows)
        if np.isfinite(scores).sum() < MIN_HELD_OUT:
            return manifest
        tails[name] = CalibratedTail.of(scores)
    count = len(prepared.training_starts)
    weights = voting_weights(tails, states, count / (count + manifest.settings.scoring.prior))
    ensemble = replace(manifest, ensemble=EnsembleState(tails, states, weights))
    return replace(ensemble, scores=ScoreHistogram.of(version_scores(ensemble, prepared.rows, held_out)))


def _members(manifest: Manifest) -> list[str]:
    """Return the names of the detectors that score by a version."""
    members = FAMILIES[manifest.settings.detector.family]
    present = [name if has_sums_of(name, manifest) else IN_PLACE[name] for name in members]
    return list(dict.fromkeys(present))


def has_sums_of(name: str, manifest: Manifest) -> bool:
    """Return whether a version has the sums over the fleet that a detector needs, if it needs any."""
    if name in OF_COVARIANCES:
        return manifest.covariances is not None
    return name != FLEET_FOREST or manifest.leaf_counts is not None


def fitted(name: str, manifest: Manifest, prepared: PreparedRows) -> OwnDetector:
    """Return a detector fitted to a client's training rows, and to the fleet's sums if it uses them.

    The client's own have the weight `n / (n + scoring.prior)` in those, with n windows to train on.

    Args:
        name: In `MEMBERS`; the version has the sums that it needs.
        manifest: A version that is scaled for the client.
        prepared: The client's rows, scaled for it.
    """
    shape, scoring = manifest.architecture, manifest.settings.scoring
    recency, starts = shape.recency_weights(scoring.decay), _chosen(prepared.training_starts)
    if name == FLEET_FOREST and manifest.leaf_counts is not None:
        trees = trees_of(manifest.settings, shape)
        counts = LeafCounts.of(trees, prepared.rows, prepared.training_starts, shape.window)
        shares = counts.blended_shares(manifest.leaf_counts, scoring.prior)
        return IsolationForest.of_shares(
            trees, shares, leaf_shares(counts.values), len(recency), shape.features
        )
    windows = np.nan_to_num(windows_at(prepared.rows, starts, shape.window))
    if name in OF_COVARIANCES and manifest.covariances is not None:
        own = LagCovariances.of(prepared.rows, starts, shape.window)
        own = replace(own, count=len(prepared.training_starts))  # their weight follows from all windows
        covariance = own.blended_with(manifest.covariances, scoring.prior).of_windows()
        return OF_COVARIANCES[name].of_covariance(covariance, windows, shape.features, recency, scoring.prior)
    return OWN_DETECTORS[name].fit(windows, shape.features, recency, scoring.prior)


def _chosen(starts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return at most `MAX_WINDOWS` of the first rows of windows, evenly spread."""
    chosen: NDArray[np.int32] = starts[np.unique(np.linspace(0, len(starts) - 1, MAX_WINDOWS).astype(int))]
    return chosen
