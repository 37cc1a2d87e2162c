"""Descriptions of clients for tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from common.model.moments import Moments
from common.model.schema import Schema
from common.protocol.messages import Description


@cache
def description(
    client: str,
    instance: str,
    features: tuple[str, ...],
    drifted: bool = False,
    rows: int = 2,
    wanted: int = 2,
) -> Description:
    """Return the description of a client with two rows of data, or one that has as many as it says."""
    moments = Moments.of(np.array([[0.0] * len(features), [1.0] * len(features)]))
    return Description(
        client, instance, Schema(features), moments if rows else None, inline=True, drifted=drifted,
        rows=rows, wanted=wanted,
    )  # fmt: skip
