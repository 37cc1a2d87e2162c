"""Scores a stream event by event with one version, without allocating memory."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.moments import softly_clipped
from common.model.scoring import windows

Floats = NDArray[np.float32]

_CAPACITY = 4096
"""Scaled rows appended before the last window is moved back to the start of the array."""
_MAX_SCALED = np.float32(1e12)
"""Larger scaled values are cut off in an explanation: their squares would overflow."""
_SEPARATORS = re.compile(r"[_./: ]")
"""Separators of the words in a feature's name."""


class Explanation(NamedTuple):
    """Per-feature view of a window, each array of shape (features,).

    Values are those of the newest event of the window that has the feature, in the feature's own unit.
    """

    share: Floats
    """Share of the error, weighted as in the score; the shares sum to 1. 0 for a feature that is missing."""
    value: Floats
    """Value; NaN if no event of the window has the feature."""
    expected: Floats
    """Value as the model reconstructs it."""

    def ordered(self, features: Sequence[str]) -> list[int]:
        """Return the positions of the features, the leading one first, the others by their shares.

        The leading feature is the largest one of the part of the machine with the largest share: a fault of
        one part can show in several features, each with a smaller share than one feature of another part.

        Args:
            features: Their names. Those with the same first word, such as `memory`, are of one part; words
                are separated by `_`, `.`, `/`, `:` or a space.

        >>> why = Explanation(np.float32([0.4, 0.25, 0.35]), np.zeros(3), np.zeros(3))
        >>> why.ordered(["cpu_system", "memory_percent", "memory_free"])
        [2, 0, 1]
        """
        order = [int(i) for i in np.argsort(self.share, kind="stable")[::-1]]
        parts = [_SEPARATORS.split(name, maxsplit=1)[0] for name in features]
        totals: dict[str, float] = {}
        for part, share in zip(parts, self.share, strict=True):
            totals[part] = totals.get(part, 0.0) + float(share)
        leading = max(order, key=lambda i: totals[parts[i]])
        return [leading, *(i for i in order if i != leading)]


class Scorer:
    """Scores events in order: an event's score is the reconstruction error of the window that it ends.

    Rows are float32, in each feature's own unit and in the order of the manifest's schema. A missing value is
    NaN: the score is that of the remaining inputs, and NaN if the newest event is missing as a whole.
    Overflow is expected: call the methods inside `np.errstate(over="ignore", invalid="ignore")`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.version = manifest.version
        self.window = manifest.architecture.window
        self.overlap = manifest.settings.model.window
        """Number of scores that an event is part of: the window, unless the rows are scores of windows."""
        architecture = manifest.architecture
        self._network, self._detector = manifest.autoencoder(), manifest.detector()
        scaling = manifest.settings.scaling
        self._scaler = manifest.scaler
        self._mean = self._scaler.mean
        self._inverse = (1 / self._scaler.std).astype(np.float32)
        self._limit = scaling.clip
        self._square = math.inf if scaling.clip is None else scaling.clip * scaling.clip  # may be infinite
        self._rows = np.zeros((self.window - 1 + _CAPACITY, architecture.features), np.float32)
        self._end = 0
        """Index after the newest row in `_rows`."""

    def follow(self, rows: Floats) -> None:
        """Take rows of shape (n, features) as the history; only the last `window - 1` matter."""
        tail = rows[len(rows) - min(len(rows), self.window - 1) :]
        self._rows[: len(tail)] = self._scaler.apply(tail)
        self._end = len(tail)

    def score_one(self, row: Floats) -> float:
        """Return the score of the next event, shape (features,); NaN before the first whole window."""
        end = self._end
        if end == len(self._rows):
            end = self._move_to_start()
        scaled = self._rows[end]
        self._scale(row, scaled)
        self._end = end = end + 1
        if end < self.window:
            return math.nan
        inputs = scaled if self.window == 1 else self._rows[end - self.window : end].reshape(-1)
        return self._detector.score_one(inputs)

    def score_many(self, rows: Floats) -> Floats:
        """Return the scores of the next n events, n at most `MAX_BATCH_EVENTS`.

        Args:
            rows: Shape (n, features).

        Returns:
            Shape (n,); NaN before the first whole window.
        """
        if self._end + len(rows) > len(self._rows):
            self._move_to_start()
        first, self._end = self._end, self._end + len(rows)
        self._scale(rows, self._rows[first : self._end])
        scores = np.full(len(rows), np.nan, np.float32)
        start = max(0, first - self.window + 1)
        if self._end - start >= self.window:
            inputs = windows(self._rows[start : self._end], self.window)
            whole = self._detector.score_many(inputs)
            scores[-len(whole) :] = whole
        return scores

    def score_window(self, window: Floats) -> float:
        """Return the score of a window, shape (window, features), that need not be the newest of the stream.

        It equals the result of `score_one` for the last of these rows, after the others.
        """
        scaled = np.empty(window.shape, np.float32)
        self._scale(window, scaled)
        return self._detector.score_one(scaled.reshape(-1))

    def score_windows(self, rows: Floats) -> Floats:
        """Return the scores of windows, shape (n, window, features), as `score_window` does: shape (n,)."""
        scaled = np.empty(rows.shape, np.float32)
        self._scale(rows, scaled)
        return self._detector.score_many(scaled.reshape(len(rows), rows.shape[1] * rows.shape[2]))

    def score_of_others(self, window: Floats, features: Collection[int]) -> float:
        """Return the score of a window, shape (window, features), without the errors of some features.

        The model reads the values of these features, unlike those of masked ones.
        """
        scaled = np.empty(window.shape, np.float32)
        self._scale(window, scaled)
        inputs = scaled.reshape(-1)
        parts = self._detector.contributions(inputs, inputs).reshape(window.shape)
        total = float(parts.sum())
        parts[:, list(features)] = 0
        score = self._detector.score_one(inputs)
        return score * float(parts.sum()) / total if total > 0 else score

    def explain(self, rows: Floats) -> Explanation:
        """Return which features make the window `rows`, shape (window, features), unusual.

        The model gets its inputs softly clipped, as for the score. The errors are measured against the
        unclipped values: otherwise a feature far beyond the limit could have a smaller share than the
        features whose reconstruction it makes worse.
        """
        missing = np.isnan(rows)
        scaled = np.clip((rows - self._mean) * self._inverse, -_MAX_SCALED, _MAX_SCALED).reshape(-1)
        inputs = self._clip(scaled.copy())
        output = self._network.reconstruct(np.nan_to_num(inputs)[None])
        by_feature = self._detector.contributions(inputs, scaled).reshape(rows.shape).sum(axis=0)
        total = by_feature.sum()
        # For each feature, the newest event that has a value for it; the newest of all if none has.
        newest = len(rows) - 1 - (~missing)[::-1].argmax(axis=0), np.arange(rows.shape[1])
        expected = output.reshape(rows.shape)[newest] * self._scaler.std + self._scaler.mean
        return Explanation(by_feature / total if total > 0 else by_feature, rows[newest], expected)

    def _scale(self, rows: Floats, out: Floats) -> None:
        """Do the same as `Scaler.apply`, without allocating."""
        np.subtract(rows, self._mean, out=out)
        np.multiply(out, self._inverse, out=out)
        self._clip(out)

    def _clip(self, scaled: Floats) -> Floats:
        """Clip values softly in place; return them."""
        # Most events have no value beyond the limit, which the sum of their squares shows fastest.
        if self._limit is not None and not np.vdot(scaled, scaled) <= self._square:
            softly_clipped(scaled, self._limit)
        return scaled

    def _move_to_start(self) -> int:
        """Move the rows that the next window needs to the start of the array; return their number."""
        count = min(self._end, self.window - 1)
        self._rows[:count] = self._rows[self._end - count : self._end]
        self._end = count
        return count
