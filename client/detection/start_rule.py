"""When an incident starts: how many events above the threshold it takes, and what is drift instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.settings import LiveSettings

CLEAR_START, DOUBTFUL_CLEAR_START = 2.0, 10.0
"""Multiples of the threshold above which one event starts an incident, with evidence for it and with none."""
UNCLEAR_EVENTS, DOUBTFUL_SHARE = 2, 0.8
"""Events in a row that start an incident if none of them is clear, without `live.start_after`.

With no evidence for the threshold they are so many that they fill this share of a window: one unusual event
is part of several windows."""
DRIFT = 3.0
"""With no evidence for the threshold, events whose score is below this multiple of the level before them are
drift: the first minutes do not show in which range the values of a machine move. Chosen by hand."""
LEVEL_EVENTS, MIN_LEVEL_EVENTS = 64, 16
"""Number of events whose usual score is the level before a run of events, and the fewest that show it."""


def events_to_start(
    settings: LiveSettings, score: float, threshold: float, overlap: int, doubt: float
) -> int:
    """Return the number of events in a row above the threshold that start an incident.

    Args:
        settings: Has `start_after`.
        score: Score of the newest of them.
        threshold: The threshold for it.
        overlap: Number of scores that an event is part of.
        doubt: How little evidence there is for the threshold, from 0, enough, to 1, hardly any. The first
            quarter of an hour of a machine that sends an event a second has two records among its events.

    >>> by_default = LiveSettings()
    >>> [events_to_start(by_default, 1.5, 1.0, 10, doubt) for doubt in (0.0, 0.5, 1.0)]
    [2, 5, 8]
    >>> [events_to_start(by_default, 5.0, 1.0, 10, doubt) for doubt in (0.0, 0.5, 1.0)]
    [1, 1, 8]
    """
    if settings.start_after is not None:
        return settings.start_after
    if score > CLEAR_START * (DOUBTFUL_CLEAR_START / CLEAR_START) ** doubt * threshold:
        return 1
    return max(UNCLEAR_EVENTS, round(UNCLEAR_EVENTS + doubt * (DOUBTFUL_SHARE * overlap - UNCLEAR_EVENTS)))


def is_drift(settings: LiveSettings, score: float, before: float, doubt: float) -> bool:
    """Return whether a score above the threshold comes from a slow change of the stream, not from a fault.

    A fault that shows suddenly is far above the level before it. With evidence for the threshold, or with
    `start_after`, the threshold decides alone.

    Args:
        settings: Has `start_after`.
        score: Score of the newest event of those above the threshold.
        before: The `level` of the scores before them.
        doubt: How little evidence there is for the threshold, from 0, enough, to 1, hardly any.

    >>> by_default = LiveSettings()
    >>> [is_drift(by_default, 20.0, *given) for given in ((12.0, 1.0), (2.0, 1.0), (12.0, 0.2))]
    [True, False, False]
    """
    return settings.start_after is None and doubt > 0 and score < DRIFT**doubt * before


def level(scores: NDArray[np.floating]) -> float:
    """Return the median of the scores before a run of events; 0 if they are too few to show the level.

    Args:
        scores: Shape (n,), NaN for events without a score.
    """
    known = scores[np.isfinite(scores)]
    return float(np.median(known)) if len(known) >= MIN_LEVEL_EVENTS else 0.0
