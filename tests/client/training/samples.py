"""One client's rows, and versions of a fleet that it takes part in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import Settings

SCHEMA = Schema(("a", "b"))
ROWS = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32) * [1, 50] + [0, 7]
ROWS = ROWS.astype(np.float32)


def partition(rows: np.ndarray = ROWS, test: np.ndarray | None = None, schema: Schema = SCHEMA) -> Partition:
    return Partition("edge", schema, rows, rows[:0] if test is None else test, None)


def client_rows(
    rows: np.ndarray = ROWS,
    test: np.ndarray | None = None,
    schema: Schema = SCHEMA,
    folder: Path | None = None,
) -> ClientRows:
    return ClientRows(partition(rows, test, schema), folder)


def version(schema: Schema = SCHEMA, **changes: dict[str, object]) -> Manifest:
    """A version that is not personalised unless the settings say so."""
    plain: dict[str, dict[str, object]] = {
        "model": {"window": 3, "hidden": (4,)},
        "scaling": {"by": "fleet", "clip": None},
        "scoring": {"normalise": False, "decay": 1.0, "personal_epochs": 0},
    }
    settings = Settings().with_values(**(plain | changes))
    shape = Architecture.from_settings(settings.model, 2)
    fleet = Moments.of(np.array([[0.0, 0.0], [4.0, 40.0]]))
    return Manifest(3, schema, shape, shape.initial_weights(1), fleet, VersionSettings.of(settings))


def personal_version(**scoring: object) -> Manifest:
    """A version that clients personalise."""
    manifest = version(
        scaling={"by": "shared", "clip": 10.0}, scoring={"personal_epochs": 3, "prior": 90, **scoring}
    )
    return replace(manifest, residuals=Residuals.of(np.full((1000, 6), 2.0)))


def expected_scores(manifest: Manifest, rows: np.ndarray, scaler: Scaler | None = None) -> np.ndarray:
    scaler = scaler or Scaler.of(manifest.moments)
    return scores(manifest.architecture, manifest.weights, scaler.apply(rows))
