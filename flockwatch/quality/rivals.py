"""Detectors without an autoencoder, each fitted to one client's own training rows: what has to be beaten.

All see what the autoencoder sees: windows of standardised events, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.model.scoring import windows
from common.model.sketch import ScoreSketch
from common.settings import Settings
from flockwatch.quality.autoencoders import Prepared
from flockwatch.quality.stream import Scored

Floats = NDArray[np.float32]
Score = Callable[[Floats], NDArray[np.floating]]
"""From windows, shape (n, inputs), to scores that are not negative, shape (n,)."""
Rival = Callable[[Floats, Settings, int], Score]
"""From training windows, the settings and a seed to what scores."""

SVM_WINDOWS = 2000
"""Training windows of the one-class SVM, drawn at random: its time grows with their square."""


def random(training: Floats, settings: Settings, seed: int) -> Score:
    """Scores that know nothing."""
    rng = np.random.default_rng(seed)
    return lambda found: rng.random(len(found))


def always(training: Floats, settings: Settings, seed: int) -> Score:
    """The same score for every event; its alerts are set apart (`flockwatch.quality.protocol`)."""
    return lambda found: np.ones(len(found))


def distance(training: Floats, settings: Settings, seed: int) -> Score:
    """Mean squared distance from the mean of the training rows, in standard deviations."""
    centre = training.mean(axis=0)
    return lambda found: np.square(found - centre).mean(axis=1)


def pca(training: Floats, settings: Settings, seed: int) -> Score:
    """Reconstruction error of as many principal components as the autoencoder's narrowest layer is wide."""
    from sklearn.decomposition import PCA

    components = min(*settings.model.hidden, *training.shape)
    model = PCA(components, random_state=seed).fit(training)

    def score(found: Floats) -> NDArray[np.floating]:
        back = model.inverse_transform(model.transform(found))
        return np.asarray(np.square(found - back).mean(axis=1))

    return score


def isolation_forest(training: Floats, settings: Settings, seed: int) -> Score:
    """How easily random splits set an event apart. Source: Liu, Ting and Zhou 2008, in scikit-learn."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=seed).fit(training)
    return lambda found: -np.asarray(model.score_samples(found))


def one_class_svm(training: Floats, settings: Settings, seed: int) -> Score:
    """How far outside a boundary about the training rows. Source: Schoelkopf et al. 2001, in scikit-learn."""
    from sklearn.svm import OneClassSVM

    chosen = training
    if len(training) > SVM_WINDOWS:
        chosen = training[np.random.default_rng(seed).choice(len(training), SVM_WINDOWS, replace=False)]
    model: Any = OneClassSVM().fit(chosen)
    # A kernel is at most 1, so this is the most that an event can have.
    most = float(model.dual_coef_.sum())
    return lambda found: np.maximum(most - model.score_samples(found), 0.0)


RIVALS: dict[str, Rival] = {
    "random": random,
    "always": always,
    "distance": distance,
    "pca": pca,
    "isolation_forest": isolation_forest,
    "one_class_svm": one_class_svm,
}


def judged(rival: Rival, client: Prepared, settings: Settings, seed: int) -> Scored:
    """One client's stream by a rival fitted to its own training rows.

    Raises:
        DataError: no whole window is held out.
    """
    window = settings.model.window
    score = rival(windows(client.training, window), settings, seed)
    found = score(windows(client.rows, window)).astype(np.float32)
    training, held, test = client.parts(found)
    return Scored(training, test, ScoreSketch.of(held))
