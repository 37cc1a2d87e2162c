"""Data of the scoring benchmarks: events of one machine as JSON lines, and versions that score them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.federations import job
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.own_detectors import with_own_detectors
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import LagCovariances
from common.model.leaf_counts import LeafCounts, trees_of
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.schema import Schema
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import DetectorFamily, Settings

SETTINGS = Settings().with_values(model={"window": 1, "hidden": (64, 16, 64)})
SCHEMA = Schema(tuple(f"metric_{i:02d}" for i in range(job.FEATURES)))
INTERVAL_S = 60.0


def training_rows() -> NDArray[np.float32]:
    """Return the rows that each detector is trained on, shape (5000, 38)."""
    return job.rows(0)


@cache
def events() -> tuple[bytes, ...]:
    """Return 5,000 events of another machine as JSON lines; every thousandth is an outlier."""
    rows = job.rows(1).copy()
    rows[::1000, 3] += 50
    start = 1_767_571_200
    return tuple(
        msgspec.json.encode({"ts": start + INTERVAL_S * i, **dict(zip(SCHEMA.features, row, strict=True))})
        for i, row in enumerate(np.round(rows.astype(np.float64), 4).tolist())
    )


def version(number: int, seed: int = 0, window: int = 1) -> Manifest:
    """Return a version with an autoencoder 64-16-64 and random weights; only its speed is measured."""
    settings = SETTINGS.with_values(model={"window": window})
    architecture = Architecture.from_settings(settings.model, len(SCHEMA))
    rows, weights = training_rows(), architecture.initial_weights(seed)
    moments = Moments.of(rows)
    scaled = Scaler.chosen(settings.scaling, moments, moments).apply(rows)
    return Manifest(
        version=number,
        schema=SCHEMA,
        architecture=architecture,
        weights=weights,
        moments=moments,
        settings=VersionSettings.of(settings),
        scores=ScoreHistogram.of(scores(architecture, weights, scaled)),
        personalised=True,
    )


def family_version(family: DetectorFamily, window: int) -> Manifest:
    """Return the same version with the detectors of a family, whose fleet has the training rows alone."""
    rows = training_rows()
    settings = VersionSettings.of(SETTINGS.with_values(model={"window": window}, detector={"family": family}))
    plain = replace(version(1, window=window), settings=settings)
    prepared = ClientRows(Partition("bench", SCHEMA, rows, rows[:0], None)).prepare(plain)
    summed = replace(
        plain,
        covariances=LagCovariances.of(prepared.rows, prepared.training_starts, window),
        leaf_counts=LeafCounts.of(
            trees_of(settings, plain.architecture), prepared.rows, prepared.training_starts, window
        ),
    )
    return replace(with_own_detectors(summed, prepared), covariances=None, leaf_counts=None)
