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
"""Share of the rows, the last ones, that evaluates and never trains."""

_FACTORS = 8
_NOISE = 0.3


def rows(client: int) -> NDArray[np.float32]:
    """One client's data, (ROWS, FEATURES): about standard normal in each column, correlated across them.

    All clients share the factors behind the columns; the client's number seeds its own rows.
    """
    mixing = np.random.default_rng(0).standard_normal((_FACTORS, FEATURES))
    mixing *= np.sqrt(1 - _NOISE**2) / np.linalg.norm(mixing, axis=0)
    own = np.random.default_rng((1, client))
    factors = own.standard_normal((ROWS, _FACTORS))
    noise = own.standard_normal((ROWS, FEATURES))
    return (factors @ mixing + _NOISE * noise).astype(np.float32)
