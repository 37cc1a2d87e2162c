"""A small model, and versions of it that follow each other by encoded steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.compression.choice import Block, seeded_rng
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture, Weights, add

Step = tuple[int, Block]

SHAPE = Architecture(2, window=1, hidden=(3,))


def manifest(version: int = 3) -> Manifest:
    moments = Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
    return Manifest(version, Schema(("a", "b")), SHAPE, SHAPE.initial_weights(0), moments, VersionSettings())


def following(before: Manifest, codec: str = "int8") -> tuple[Step, Manifest]:
    moved = SHAPE.initial_weights(before.version + 1)
    block = Block.of(codec, moved, seeded_rng(before.version))
    weights: Weights = add(before.weights, block.decoded(SHAPE.shapes))
    scores = ScoreHistogram.of(np.arange(float(before.version)))
    residuals = Residuals.of(np.full((before.version, SHAPE.inputs), 0.5))
    after = replace(before, version=before.version + 1, weights=weights, scores=scores, residuals=residuals)
    return (after.version, block), after


def chain(length: int = 3) -> tuple[list[Manifest], list[Step]]:
    made, steps = [manifest()], []
    for _ in range(length):
        step, after = following(made[-1])
        made.append(after)
        steps.append(step)
    return made, steps
