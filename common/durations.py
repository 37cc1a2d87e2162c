"""Durations in words, for messages to people."""

from __future__ import annotations

_UNITS = (("days", 86400), ("hours", 3600), ("minutes", 60))


def in_words(seconds: float) -> str:
    """Return a duration, at least 0, in the largest unit of which it has at least two, rounded down.

    >>> in_words(2 * 86400), in_words(86400), in_words(90), in_words(1.5)
    ('2 days', '24 hours', '90 seconds', '1 second')
    """
    for units, length in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {units}"
    whole = int(seconds)
    return "1 second" if whole == 1 else f"{whole} seconds"
