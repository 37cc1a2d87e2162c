"""Federated averaging as its paper defines it, to compare Flower's with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.model.weights import Weights


def weighted_mean(parts: Iterable[tuple[Weights, float]]) -> Weights:
    """Return the mean of weights, each weighted by its factor, summed in float64.

    Source: McMahan et al. 2017, algorithm 1 (FederatedAveraging).
    """
    total = 0.0
    sums: dict[str, NDArray[np.float64]] = {}
    for weights, factor in parts:
        total += factor
        for name, array in weights.items():
            sums[name] = sums.get(name, np.float64(0)) + array.astype(np.float64) * factor
    return {name: (array / total).astype(np.float32) for name, array in sums.items()}
