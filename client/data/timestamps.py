"""Timestamps of events, in the forms in which streams and files have them, and their usual interval."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Magnitude from which a number is in ns, us or ms, and the number of these in a second."""

_OTHER_DATE = re.compile(r"(?:(\d{4})/(\d{1,2})/(\d{1,2})|(\d{1,2})\.(\d{1,2})\.(\d{4}))(?=$|[ T,])")
"""A date at the start of a text: year/month/day or day.month.year. Day/month/year could be month/day/year."""
_ZONE = re.compile(r"(?: *(?:UTC|GMT|Z)| +(?=[+-]\d{2}:?\d{2}$))", re.IGNORECASE)
"""A name of UTC, or spaces before an offset, at the end of a text."""


def parse_seconds(value: Any) -> float | None:
    """Return the seconds since 1970 of a timestamp.

    Args:
        value: A number of s, ms, us or ns, which its magnitude shows; the same as text; or a date with or
            without a time: ISO 8601, or with the date as 2026/01/05 or 05.01.2026 (day first). It is UTC
            unless it has an offset. Other dates with slashes are ambiguous, and not timestamps.

    Returns:
        None for anything else.

    >>> parse_seconds(1.5), parse_seconds(1_700_000_000_000), parse_seconds("2023-11-14T22:13:20Z")
    (1.5, 1700000000.0, 1700000000.0)
    >>> parse_seconds("14.11.2023 22:13:20 UTC")
    1700000000.0
    >>> parse_seconds("noon") is None
    True
    """
    if isinstance(value, str):
        try:
            value = _plain_number(value)
        except ValueError:
            try:
                moment = _moment(value)
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


def _moment(text: str) -> datetime:
    """Return the moment that a text names.

    Raises:
        ValueError: it is in none of the forms that are known.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        other = text.strip()
    if date := _OTHER_DATE.match(other):
        year, month, day = date.group(1, 2, 3) if date[1] else date.group(6, 5, 4)
        other = f"{year}-{month:0>2}-{day:0>2}" + re.sub("^(?:, ?|T)", " ", other[date.end() :])
        other = re.sub(r" (\d):", r" 0\1:", other)
    zone = _ZONE.search(other, max(0, len(other) - 8))
    if zone and zone.end() == len(other):
        other = other[: zone.start()] + "Z"
    elif zone:
        other = other[: zone.start()] + other[zone.end() :]
    return datetime.fromisoformat(other)


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
