"""Detectors without an autoencoder, each fitted to the training rows of one client, for comparison.

Their input is that of the autoencoder: windows of standardised events, oldest event first. None of them knows
missing values; they get the mean, which is 0, in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.detectors.choice import OWN_DETECTORS
from common.model.histogram import ScoreHistogram
from common.model.scoring import windows
from common.model.weights import Architecture
from common.settings import Settings
from flockwatch.quality.autoencoders import ScaledRows
from flockwatch.quality.stream import StreamScores

Floats = NDArray[np.float32]
Score = Callable[[Floats], NDArray[np.floating]]
"""Scores windows: shape (n, inputs) to non-negative scores, shape (n,)."""
Baseline = Callable[[Floats, Settings, int], Score]
"""Fits a detector to training windows, under settings and a random seed."""

SVM_WINDOWS = 2000
"""Training windows of the one-class SVM, chosen at random: its time grows with their square."""


def random(training: Floats, settings: Settings, seed: int) -> Score:
    """Score at random."""
    rng = np.random.default_rng(seed)
    return lambda inputs: rng.random(len(inputs))


def always(training: Floats, settings: Settings, seed: int) -> Score:
    """Give every event the same score; `flockwatch.quality.stream.replay_always` makes each one an alert."""
    return lambda inputs: np.ones(len(inputs))


def distance(training: Floats, settings: Settings, seed: int) -> Score:
    """Score by the mean squared distance from the mean of the training rows, in standard deviations."""
    centre = training.mean(axis=0)
    return lambda inputs: np.square(inputs - centre).mean(axis=1)


def pca(training: Floats, settings: Settings, seed: int) -> Score:
    """Score by the reconstruction error of PCA with as many components as the narrowest layer has units."""
    from sklearn.decomposition import PCA

    components = min(*settings.model.hidden, *training.shape)
    model = PCA(components, random_state=seed).fit(training)

    def score(inputs: Floats) -> NDArray[np.floating]:
        reconstruction = model.inverse_transform(model.transform(inputs))
        return np.asarray(np.square(inputs - reconstruction).mean(axis=1))

    return score


def isolation_forest(training: Floats, settings: Settings, seed: int) -> Score:
    """Score by an isolation forest. Source: Liu, Ting and Zhou 2008; scikit-learn."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=seed).fit(training)
    return lambda inputs: -np.asarray(model.score_samples(inputs))


def one_class_svm(training: Floats, settings: Settings, seed: int) -> Score:
    """Score by a one-class SVM. Source: Schoelkopf et al. 2001; scikit-learn."""
    from sklearn.svm import OneClassSVM

    sample = training
    if len(training) > SVM_WINDOWS:
        sample = training[np.random.default_rng(seed).choice(len(training), SVM_WINDOWS, replace=False)]
    model: Any = OneClassSVM().fit(sample)
    # A kernel is at most 1, so this is the largest value of the decision function.
    largest = float(model.dual_coef_.sum())
    return lambda inputs: np.maximum(largest - model.score_samples(inputs), 0.0)


def own_detector(name: str) -> Baseline:
    """Return a baseline of a family of `common.detectors`, which weights errors by age and by usual size."""

    def fit(training: Floats, settings: Settings, seed: int) -> Score:
        features = training.shape[1] // settings.model.window
        recency = Architecture(features, settings.model.window).recency_weights(settings.scoring.decay)
        family = OWN_DETECTORS[name]
        return family.fit(training, features, recency, settings.scoring.prior).score_many

    return fit


BASELINES: dict[str, Baseline] = {
    "random": random,
    "always": always,
    "distance": distance,
    "pca": pca,
    "own_pca": own_detector("pca"),
    "own_gaussian": own_detector("gaussian"),
    "own_isolation_forest": own_detector("isolation_forest"),
    "own_kmeans": own_detector("kmeans"),
    "own_one_class_svm": own_detector("one_class_svm"),
    "isolation_forest": isolation_forest,
    "one_class_svm": one_class_svm,
}


def score_client(baseline: Baseline, client: ScaledRows, settings: Settings, seed: int) -> StreamScores:
    """Fit a baseline to a client's training rows, and score its stream.

    Args:
        baseline: The detector.
        client: The client's rows.
        settings: Section `model` counts.
        seed: Random seed.

    Raises:
        DataError: no whole window is held out.
    """
    window = settings.model.window
    score = baseline(np.nan_to_num(windows(client.training, window)), settings, seed)
    window_scores = score(np.nan_to_num(windows(client.rows, window))).astype(np.float32)
    training, held_out, test = client.split_scores(window_scores)
    return StreamScores(training, test, ScoreHistogram.of(held_out), client.rows)
