"""PCA and an isolation forest on the same streams, with the same warm-up, budget and rule of incidents."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from benchmarks.watch.changes import Recording
from benchmarks.watch.judging import DAY_S, Incident
from client.detection.adaptive_threshold import doubt_of
from client.detection.start_rule import LEVEL_EVENTS, events_to_start, is_drift, level
from common.budget import Budget
from common.model.scoring import windows
from common.settings import LiveSettings, Settings
from flockwatch.quality.baselines import Baseline

GROWTH = 1.1
"""Factor by which a rival's rows grow until it is fitted again."""
FIT_SHARE = 0.8
"""Share of its windows that a rival is fitted to; the scores of the newest others set its threshold."""
MIN_SPREAD = 1e-6
"""Features with a smaller standard deviation are not standardised: each new value would be an alert."""


class IncidentRule:
    """Groups scores into incidents by the settings of the live detector.

    Args:
        settings: Has `start_after`, `end_after` and `release`.
        window: Number of events in a window.
        rate: Share of the events that may lie above the threshold.
    """

    def __init__(self, settings: LiveSettings, window: int, rate: float) -> None:
        self._settings, self._window, self._rate = settings, window, rate
        self._end_after, self._release = settings.end_after, settings.release
        self._above = self._below = 0
        self._first = self._last = 0
        self._open = False
        self._ended: list[slice] = []
        self._before: deque[float] = deque(maxlen=LEVEL_EVENTS)
        """Scores before the events in a row above the threshold."""

    @property
    def spans(self) -> list[slice]:
        """The incidents, each from its first event above the threshold to its last; the last may be open."""
        return [*self._ended, slice(self._first, self._last + 1)] if self._open else list(self._ended)

    def add(self, index: int, score: float, threshold: float) -> None:
        """Add the next event."""
        if score > threshold:
            if not self._above:
                self._first = index
            self._above, self._below, self._last = self._above + 1, 0, index
            doubt = doubt_of(index * self._rate)
            wanted = events_to_start(self._settings, score, threshold, self._window, doubt)
            if not self._open and self._above >= wanted:
                self._open = not is_drift(self._settings, score, level(np.array(self._before)), doubt)
                self._above = self._above if self._open else 0
        elif not self._open:
            self._above = 0
            self._before.append(score)
        else:
            self._below = self._below + 1 if score < threshold * self._release else 0
            if self._below >= self._end_after:
                self._ended.append(slice(self._first, self._last + 1))
                self._open, self._above, self._below = False, 0, 0


def replay_rival(
    baseline: Baseline, recording: Recording, first: int, settings: Settings, interval_s: float
) -> list[Incident]:
    """Return the incidents of a rival that learns from a machine's own stream alone.

    It gives verdicts from event `first` on, like the client of the same machine. It is fitted to the rows
    before, and again as they grow: to twice as many, then each day, then by `GROWTH`. It learns from no
    incident that is shorter than a day. Its threshold is the quantile of held-out scores that as many events
    exceed as the budget has incidents.

    Args:
        baseline: Fits the rival to windows.
        recording: The machine's rows, without missing values.
        first: Number of the first event with a verdict.
        settings: Sections `threshold`, `live` and `model` count.
        interval_s: Seconds between two events.
    """
    day = round(DAY_S / interval_s)
    rate = Budget.parse(settings.threshold.budget).rate(interval_s)
    rule = IncidentRule(settings.live, settings.model.window, rate)
    rows = recording.rows
    at = max(first, 2 * settings.model.window)
    while at < len(rows):
        until = min(max(round(at * GROWTH), at + min(day, at)), len(rows))
        usable = np.ones(at, np.bool_)
        for span in rule.spans:
            if span.stop - span.start < day:
                usable[span] = False
        scores, threshold = _scores(baseline, rows[:until], usable, settings, rate)
        for index, score in zip(range(at, until), scores.tolist(), strict=True):
            rule.add(index, score, threshold)
        at = until
    return [Incident(span) for span in rule.spans]


def _scores(
    baseline: Baseline, rows: NDArray[np.float32], usable: NDArray[np.bool_], settings: Settings, rate: float
) -> tuple[NDArray[np.floating], float]:
    """Fit a rival to the rows that are known, and score those that come.

    Args:
        baseline: Fits the rival to windows.
        rows: The known rows and those to score, shape (n, features).
        usable: Which of the known rows it may learn from, shape (known,).
        settings: Section `model` counts.
        rate: Share of the events that may lie above the threshold.

    Returns:
        The scores of the rows from number `known` on, and the threshold.
    """
    window, known = settings.model.window, len(usable)
    mean, std = rows[:known][usable].mean(axis=0), rows[:known][usable].std(axis=0)
    scaled = ((rows - mean) / np.where(std > MIN_SPREAD, std, 1.0)).astype(np.float32)
    inputs = windows(scaled, window)  # the last event of window i is row i + window - 1
    past = inputs[: known - window + 1]
    past = past[np.convolve(~usable, np.ones(window), "valid") == 0]
    split = round(len(past) * FIT_SHARE)
    score = baseline(past[:split], settings, 0)
    threshold = float(np.quantile(score(past[split:]), 1 - rate, method="higher"))
    return score(inputs[known - window + 1 :]), threshold
