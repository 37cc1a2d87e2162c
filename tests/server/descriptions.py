"""Descriptions of clients for tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from common.model.moments import Moments
from common.model.schema import Schema
from common.protocol.messages import Description


@cache
def description(client: str, instance: str, features: tuple[str, ...], drifted: bool = False) -> Description:
    """Return the description of a client with two rows of data."""
    moments = Moments.of(np.array([[0.0] * len(features), [1.0] * len(features)]))
    return Description(client, instance, Schema(features), moments, inline=True, drifted=drifted)
