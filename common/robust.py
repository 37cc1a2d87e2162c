"""Robust statistics: a few outliers do not move them."""

from __future__ import annotations

MAD_TO_STD = 1.4826
"""Ratio of the standard deviation of a normal distribution to its median absolute deviation."""
