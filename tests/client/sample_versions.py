"""Model versions of a small model, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.schema import Schema
from common.model.scoring import version_scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import Settings

SCHEMA = Schema(("a", "b", "c"))


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal events, shape (count, 3)."""
    noise = np.random.default_rng(seed).standard_normal((count, 3))
    return (noise * [1, 10, 0.1] + [0, 5, 1]).astype(np.float32)


def lines(events: NDArray[np.float32], start: float = 1e9, step: float = 60.0) -> list[bytes]:
    """Events as a source gives them, `step` seconds apart."""
    return [
        b'{"ts":%.1f,"a":%.9g,"b":%.9g,"c":%.9g}' % (start + step * i, *map(float, row))
        for i, row in enumerate(events)
    ]


def with_settings(manifest: Manifest, **sections: object) -> Manifest:
    """The version with whole sections of its settings replaced."""
    return replace(manifest, settings=VersionSettings.parse({**manifest.settings.values, **sections}))


def version(
    number: int = 1, window: int = 1, seed: int = 1, scale: float = 1.0, **settings: object
) -> Manifest:
    """A version with random weights, `scale` times as large, and the histogram of its scores.

    It is scaled by the moments that it holds, without a limit, unless the settings say otherwise.
    """
    changes = {"model": {"window": window, "hidden": (4, 2)}, "scaling": {"by": "fleet", "clip": None}}
    given = Settings().with_values(**(changes | settings))  # type: ignore[arg-type]
    architecture = Architecture.from_settings(given.model, 3)
    weights = {n: w * np.float32(scale) for n, w in architecture.initial_weights(seed).items()}
    moments = Moments.of(rows(2000))
    made = Manifest(number, SCHEMA, architecture, weights, moments, VersionSettings.of(given))
    result = version_scores(made, Scaler.of(moments).apply(rows(4000, seed=9)))
    return replace(made, scores=ScoreHistogram.of(result), personalised=True)
