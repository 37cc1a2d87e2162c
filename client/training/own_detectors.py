"""The detectors that a machine fits to its own rows, to score beside the fleet's autoencoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.training.client_rows import PreparedRows
from common.detectors.choice import OWN_DETECTORS
from common.detectors.ensemble import FIRST, EnsembleState
from common.detectors.tail import CalibratedTail
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.scoring import version_scores, windows_at

MIN_WINDOWS, MIN_HELD_OUT = 50, 10
"""Windows to fit to and windows to calibrate on; with fewer of them the autoencoder scores alone."""
MAX_WINDOWS = 8192
"""Windows, evenly chosen, that detectors are fitted to or calibrated on."""


def with_own_detectors(manifest: Manifest, prepared: PreparedRows) -> Manifest:
    """Return a version with an ensemble of its autoencoder and detectors of the client's own rows.

    They are fitted to the training rows, and the tails of all are those of the held-out rows. The version's
    score histogram becomes that of the ensemble's scores of these rows. With too few rows the version is not
    changed.

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
    own = {
        name: family.fit(windows, shape.features, recency, scoring.prior)
        for name, family in OWN_DETECTORS.items()
    }
    tails = {}
    for name, detector in {FIRST: manifest.autoencoder(), **own}.items():
        scores = detector.score_many(held_out_windows)
        if np.isfinite(scores).sum() < MIN_HELD_OUT:
            return manifest
        tails[name] = CalibratedTail.of(scores)
    states = {name: detector.state for name, detector in own.items()}
    ensemble = replace(manifest, ensemble=EnsembleState(tails, states))
    return replace(ensemble, scores=ScoreHistogram.of(version_scores(ensemble, prepared.rows, held_out)))


def _chosen(starts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return at most `MAX_WINDOWS` of the first rows of windows, evenly spread."""
    chosen: NDArray[np.int32] = starts[np.unique(np.linspace(0, len(starts) - 1, MAX_WINDOWS).astype(int))]
    return chosen
