"""The training job of the round benchmark: the same numbers and rows for stock Flower and for flockwatch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLIENTS = 2
ROWS = 5_000
FEATURES = 38
HIDDEN = (16,)
EPOCHS = 1
BATCH = 32
HOLDOUT = 0.1
"""Share of the rows, at the end, that are held out for evaluation."""

_FACTORS = 8
_NOISE = 0.3


def rows(client: int) -> NDArray[np.float32]:
    """Generate one client's data, shape (ROWS, FEATURES): correlated standard normal columns.

    All clients share the mixing of the latent factors; the client's number seeds its rows.
    """
    mixing = np.random.default_rng(0).standard_normal((_FACTORS, FEATURES))
    mixing *= np.sqrt(1 - _NOISE**2) / np.linalg.norm(mixing, axis=0)
    rng = np.random.default_rng((1, client))
    factors = rng.standard_normal((ROWS, _FACTORS))
    noise = rng.standard_normal((ROWS, FEATURES))
    return (factors @ mixing + _NOISE * noise).astype(np.float32)
