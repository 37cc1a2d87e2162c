"""Timestamps of events, in the forms in which streams and files have them, and their usual interval."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Magnitude from which a number is in ns, us or ms, and the number of these in a second."""


def parse_seconds(value: Any) -> float | None:
    """Return the seconds since 1970 of a timestamp.

    Args:
        value: A number of s, ms, us or ns, which its magnitude shows; the same as text; or ISO 8601 text,
            which is UTC unless it names a time zone.

    Returns:
        None for anything else.

    >>> parse_seconds(1.5), parse_seconds(1_700_000_000_000), parse_seconds("2023-11-14T22:13:20Z")
    (1.5, 1700000000.0, 1700000000.0)
    >>> parse_seconds("noon") is None
    True
    """
    if isinstance(value, str):
        try:
            value = _plain_number(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                return None
    if type(value) not in (int, float) or not abs(value) < 1e20:  # a bool is not a timestamp
        return None
    number = float(value)
    for limit, unit in _UNITS:
        if abs(number) >= limit:
            return number / unit
    return number


def _plain_number(text: str) -> float:
    """Return the number in a text; unlike `float`, accept neither underscores nor digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)


def usual_interval_s(times: NDArray[np.float64]) -> float | None:
    """Return the usual seconds between two events: the median of the steps, or else their mean.

    Events that come in bursts have equal times, and so the median 0.

    Args:
        times: Times of consecutive events in seconds, shape (n,); NaN where unknown.

    Returns:
        None if the times do not rise.

    >>> usual_interval_s(np.array([0.0, 60.0, 120, 600])), usual_interval_s(np.array([7.0, 7, 7, 10]))
    (60.0, 1.0)
    """
    steps = np.diff(times[np.isfinite(times)])
    if not len(steps):
        return None
    median = float(np.median(steps))
    usual = median if median > 0 else float(steps.mean())
    return usual if usual > 0 else None
