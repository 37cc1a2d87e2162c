"""From scores of normal rows to the score above which an event is an anomaly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.settings import ThresholdSettings


def threshold(settings: ThresholdSettings, normal_scores: NDArray[np.floating]) -> float:
    """The fixed value of the settings, or their quantile of `normal_scores` of shape (n,), n >= 1.

    >>> threshold(ThresholdSettings(quantile=0.5), np.array([1.0, 2.0, 3.0]))
    2.0
    """
    if settings.value is not None:
        return settings.value
    return float(np.quantile(normal_scores, settings.quantile))
