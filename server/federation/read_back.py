"""Reads a version back before it is published, as a client will read it."""

from __future__ import annotations

import numpy as np

from common.model.manifest import Manifest, ManifestError
from common.model.moments import Scaler
from common.model.scoring import squared_errors
from common.model.threshold import tail_quantile

RATE = 1e-5
"""Rate of false alerts for which a threshold must exist: about 1 per day of events each second."""


def read_back(manifest: Manifest) -> None:
    """Pack a version, unpack it, and compute by it what a client computes: scale, score and threshold.

    Raises:
        ManifestError: a client could not use the version; the message says why.
    """
    again = Manifest.unpack(manifest.pack())
    if again.hash != manifest.hash:
        raise ManifestError(f"version {manifest.version} is another one after it was packed and unpacked")
    scaler = Scaler.of(again.moments)
    known = np.broadcast_to(np.asarray(again.moments.counts) > 0, scaler.mean.shape)
    if not (np.isfinite(scaler.std).all() and np.isfinite(scaler.mean[known]).all()):
        raise ManifestError("its means and spreads are not finite")
    if not np.isfinite(again.precision).all():
        raise ManifestError("the weights of its inputs in a score are not finite")
    usual = np.zeros((1, again.architecture.inputs), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = squared_errors(again.architecture, again.weights, usual) * again.precision
    if not np.isfinite(errors).all():
        raise ManifestError("it has no finite score of a usual event")
    if again.scores.count and not np.isfinite(tail_quantile(again.scores, RATE)):
        raise ManifestError("its scores have no finite threshold")
