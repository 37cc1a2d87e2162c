"""Robust statistics: a few outliers do not move them."""

from __future__ import annotations

import numpy as np

MAD_TO_STD = 1.4826
"""Ratio of the standard deviation of a normal distribution to its median absolute deviation."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""Smallest normal float32: a value below it counts as this one in logarithms and ratios."""
