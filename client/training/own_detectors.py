"""The detectors that a machine fits to its rows, to score beside the fleet's autoencoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.training.client_rows import PreparedRows
from common.detectors.choice import FLEET_PCA, OWN_DETECTORS
from common.detectors.contract import OwnDetector
from common.detectors.ensemble import FIRST, EnsembleState
from common.detectors.pca import PrincipalComponents
from common.detectors.tail import CalibratedTail
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import LagCovariances
from common.model.manifest import Manifest
from common.model.scoring import version_scores, windows_at

MIN_WINDOWS, MIN_HELD_OUT = 50, 10
"""Windows to fit to and windows to calibrate on; with fewer of them the autoencoder scores alone."""
MAX_WINDOWS = 8192
"""Windows, evenly chosen, that detectors are fitted to or calibrated on."""


def with_own_detectors(manifest: Manifest, prepared: PreparedRows) -> Manifest:
    """Return a version with an ensemble of its autoencoder and detectors of the client's own rows.

    They are fitted to the training rows, and the tails of all are those of the held-out rows. Where the
    version has the fleet's covariances, principal components of these are one more detector. The version's
    score histogram becomes that of the ensemble's scores of the held-out rows. With too few rows the version
    gets no detectors.

    Args:
        manifest: A version that is personalised apart from this.
        prepared: The client's rows, scaled for it.
    """
    training, held_out = _chosen(prepared.training_starts), _chosen(prepared.held_out_starts)
    if len(training) < MIN_WINDOWS:
        return manifest
    shape, scoring = manifest.architecture, manifest.settings.scoring
    windows = np.nan_to_num(windows_at(prepared.rows, training, shape.window))
    held_out_windows = windows_at(prepared.rows, held_out, shape.window)
    recency = shape.recency_weights(scoring.decay)
    own: dict[str, OwnDetector] = {
        name: family.fit(windows, shape.features, recency, scoring.prior)
        for name, family in OWN_DETECTORS.items()
    }
    if (fleet_pca := fitted_fleet_pca(manifest, prepared)) is not None:
        own[FLEET_PCA] = fleet_pca
    tails = {}
    for name, detector in {FIRST: manifest.autoencoder(), **own}.items():
        scores = detector.score_many(held_out_windows)
        if np.isfinite(scores).sum() < MIN_HELD_OUT:
            return manifest
        tails[name] = CalibratedTail.of(scores)
    states = {name: detector.state for name, detector in own.items()}
    ensemble = replace(manifest, ensemble=EnsembleState(tails, states))
    return replace(ensemble, scores=ScoreHistogram.of(version_scores(ensemble, prepared.rows, held_out)))


def fitted_fleet_pca(manifest: Manifest, prepared: PreparedRows) -> PrincipalComponents | None:
    """Return principal components of the fleet's covariances blended with the client's own.

    The client's own have the weight `n / (n + scoring.prior)` with n windows to train on.

    Args:
        manifest: A version that is scaled for the client; None is returned if it has no covariances.
        prepared: The client's rows, scaled for it.
    """
    if manifest.covariances is None:
        return None
    shape, scoring = manifest.architecture, manifest.settings.scoring
    starts = _chosen(prepared.training_starts)
    own = LagCovariances.of(prepared.rows, starts, shape.window)
    own = replace(own, count=len(prepared.training_starts))
    covariance = own.blended_with(manifest.covariances, scoring.prior).of_windows()
    windows = np.nan_to_num(windows_at(prepared.rows, starts, shape.window))
    recency = shape.recency_weights(scoring.decay)
    return PrincipalComponents.of_covariance(covariance, windows, shape.features, recency, scoring.prior)


def _chosen(starts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return at most `MAX_WINDOWS` of the first rows of windows, evenly spread."""
    chosen: NDArray[np.int32] = starts[np.unique(np.linspace(0, len(starts) - 1, MAX_WINDOWS).astype(int))]
    return chosen
