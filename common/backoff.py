"""The time to wait before an operation that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_RETRY_S = 10.0


def retry_interval_s(failures: int, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after a number of consecutive failures: doubling, capped, with jitter.

    Args:
        failures: Number of consecutive failures.
        draw: Returns a random number between two bounds.
    """
    return draw(0.5, 1.0) * min(0.1 * 2.0 ** min(failures, 16), MAX_RETRY_S)
