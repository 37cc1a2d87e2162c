"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_RETRY_S = 10.0


def retry_interval_s(failures: int, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds before the next attempt after so many failures: doubling, capped, with full jitter."""
    return draw(0.5, 1.0) * min(0.1 * 2.0 ** min(failures, 16), MAX_RETRY_S)
