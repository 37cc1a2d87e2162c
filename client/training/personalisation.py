"""Personalisation: a version of the fleet adapted to one client before it scores the client's stream."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from client.training.client_rows import ClientRows, PreparedRows
from client.training.own_detectors import with_own_detectors
from client.versions.own_statistics import with_own_residuals, with_own_scaling
from common.detectors.choice import AUTOENCODER, FAMILIES
from common.model.manifest import Manifest
from common.model.weights import Architecture
from common.settings import TrainingSettings

if TYPE_CHECKING:
    from client.training.trainer import Trainer

TrainerFactory = Callable[[Architecture, TrainingSettings], "Trainer"]
"""Returns a trainer for a model and settings; raises `TrainingUnavailableError` if it cannot."""


class TrainingUnavailableError(RuntimeError):
    """TensorFlow is not installed on this machine."""


def personalise(manifest: Manifest, rows: ClientRows, get_trainer: TrainerFactory) -> Manifest:
    """Return the version with scaling, weights and error weights for one client.

    With `detector.family: ensemble`, the result also has detectors of the client's own rows.

    With `n` windows to train on, what the client learns from its own rows has the weight `n / (n + prior)`
    (`scoring.prior`), and what the fleet has learned has the rest.

    Source: the weight is that of a normal mean under a conjugate prior (Efron and Morris 1973).

    Args:
        manifest: A version of the fleet.
        rows: The client's rows.
        get_trainer: Makes the trainer. Without TensorFlow the weights stay the fleet's.

    Raises:
        SchemaError: the features of the version are not those of this client.
        DataError: there are too few rows for one window on each side.
    """
    prepared = rows.prepare(manifest)
    manifest = with_own_scaling(manifest, rows.aligned_moments(manifest.schema))
    family = manifest.settings.detector.family
    if AUTOENCODER in FAMILIES[family]:
        manifest = _with_tuned_weights(manifest, prepared, rows.name, get_trainer)
    own = prepared.score_training(manifest).residuals
    manifest = replace(with_own_residuals(manifest, own), personalised=True)
    if family != AUTOENCODER:
        with np.errstate(over="ignore", invalid="ignore"):
            manifest = with_own_detectors(manifest, prepared)
    return replace(manifest, covariances=None, leaf_counts=None)


def _with_tuned_weights(
    manifest: Manifest, prepared: PreparedRows, client: str, get_trainer: TrainerFactory
) -> Manifest:
    """Blend the weights with the weights after a few epochs of training on the client's own rows."""
    training, scoring = manifest.settings.training, manifest.settings.scoring
    if not scoring.personal_epochs:
        return manifest
    seed = zlib.crc32(f"{client}/{manifest.version}/{training.seed}/personal".encode())
    try:
        tuned, _ = get_trainer(manifest.architecture, training).fit(
            manifest.weights, prepared.rows, scoring.personal_epochs, seed, prepared.training_starts
        )
    except TrainingUnavailableError:
        return manifest
    windows = len(prepared.training_starts)
    share = windows / (windows + scoring.prior)
    weights = {
        name: ((1 - share) * array + share * tuned[name]).astype(np.float32)
        for name, array in manifest.weights.items()
    }
    return replace(manifest, weights=weights)
