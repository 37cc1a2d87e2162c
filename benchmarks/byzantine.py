"""Byzantine clients for `make bench-poison`: they send something other than what they learned.

Some have a fault, such as a broken sensor; the others are malicious, with gross changes or with small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from client.data.partition import Partition
from client.training.worker import ClientWorker
from common.model.histogram import ScoreHistogram, bucket_values
from common.model.moments import Moments
from common.model.weights import Weights, norm, scale
from common.protocol.messages import Description, Task, Update

Rows = NDArray[np.float32]

PATTERN_FEATURES, PATTERN_EVENTS, PATTERN_SPREADS = 4, 10, 6.0
"""The backdoor's pattern: number of features, number of events, and distance from the mean in spreads."""
BACKDOOR_SHARE = 0.2
"""Share of the Byzantine client's rows with the pattern."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Corruption:
    """The changes that a Byzantine client makes to its messages; by default none."""

    rows: Callable[[Rows], Rows] = _same
    """Changes the rows that it trains on, shape (n, features); it may write into them."""
    moments: Callable[[Moments], Moments] = _same
    """Changes the moments in its description."""
    update: Callable[[Update], Update] = _same
    """Changes each answer to a training task."""


class ByzantineClient(ClientWorker):
    """A client that changes what it learned before it sends it.

    Args:
        corruption: What it changes.
        partition: Its data.
        **values: As for an honest client.
    """

    def __init__(self, corruption: Corruption, partition: Partition, **values: Any) -> None:
        rows = corruption.rows(partition.rows.copy())
        super().__init__(replace(partition, rows=rows), partition.name, **values)
        self._corruption = corruption

    def describe(self, window: int | None = None) -> Description:
        """Describe the client, with changed moments."""
        sound = super().describe(window)
        assert sound.moments is not None
        return structs.replace(sound, moments=self._corruption.moments(sound.moments))

    def train(self, task: Task) -> Update:
        """Train, and change the answer."""
        return self._corruption.update(super().train(task))


def pattern_at(rows: Rows, starts: NDArray[np.int64]) -> Rows:
    """Return a copy of rows, shape (n, features), with the backdoor's pattern from each start on."""
    changed = rows.copy()
    level = rows[:, :PATTERN_FEATURES].mean(axis=0) + PATTERN_SPREADS * (
        rows[:, :PATTERN_FEATURES].std(axis=0) + 1e-3
    )
    for start in starts:
        changed[start : start + PATTERN_EVENTS, :PATTERN_FEATURES] = level
    return changed


def _backdoor(rows: Rows) -> Rows:
    count = round(BACKDOOR_SHARE * len(rows) / PATTERN_EVENTS)
    return pattern_at(rows, np.linspace(0, len(rows) - PATTERN_EVENTS, count).astype(np.int64))


def _five_cells(rows: Rows) -> Rows:
    rows[np.linspace(0, len(rows) - 1, 5).astype(np.int64), 0] = -9999.0
    return rows


def _broken_sensor(rows: Rows) -> Rows:
    rows[:, :3] += 30 * rows[:, :3].std(axis=0) * np.random.default_rng(0).standard_normal((len(rows), 3))
    return rows


def _with_values(**changes: Any) -> Callable[[Update], Update]:
    return lambda update: structs.replace(update, **changes)


def _scaled_scores(factor: float) -> Callable[[Update], Update]:
    def change(update: Update) -> Update:
        values = np.repeat(bucket_values(update.scores.buckets) * factor, update.scores.counts)
        return structs.replace(update, scores=ScoreHistogram.of(values))

    return change


def _with_huge_scores(share: float) -> Callable[[Update], Update]:
    """Return a change of this share of the scores to 1e30."""

    def change(update: Update) -> Update:
        scores = update.scores
        huge = max(1, round(share * scores.count))
        return structs.replace(update, scores=scores.capped(scores.count - huge).merge(_repeated(1e30, huge)))

    return change


def _repeated(score: float, count: int) -> ScoreHistogram:
    one = ScoreHistogram.of(np.array([score]))
    return ScoreHistogram(one.buckets, one.counts * count)


def _wrong_residuals(factor: float) -> Callable[[Update], Update]:
    """Return a change of the squared errors by a factor: every other one up, the rest down."""

    def change(update: Update) -> Update:
        squares = update.residuals.squares.copy()
        squares[::2] *= factor
        squares[1::2] /= factor
        return structs.replace(update, residuals=structs.replace(update.residuals, squares=squares))

    return change


def _scaled_update(factor: float) -> Callable[[Update], Update]:
    return lambda update: structs.replace(update, difference=scale(update.difference, factor))


def _scaled_spreads(factor: float) -> Callable[[Moments], Moments]:
    """Return a change of the spreads by a factor, with smallest and largest values that fit them."""

    def change(moments: Moments) -> Moments:
        middle, half = (
            moments.mean,
            np.maximum(moments.maximum - moments.mean, moments.mean - moments.minimum),
        )
        return structs.replace(
            moments, m2=moments.m2 * factor**2, within=moments.within * factor**2,
            minimum=middle - factor * half, maximum=middle + factor * half,
        )  # fmt: skip

    return change


def _slow_drift(update: Update) -> Update:
    """Raise the scores by 2 % a version, and add a difference of usual size that is always the same."""
    rng = np.random.default_rng(1)
    fixed: Weights = {
        n: rng.standard_normal(a.shape).astype(np.float32) for n, a in update.difference.items()
    }
    size = norm(update.difference) / norm(fixed)
    return _scaled_scores(1.02**update.version)(structs.replace(update, difference=scale(fixed, size)))


def _tiny_error(update: Update) -> Update:
    return structs.replace(update, error=structs.replace(update.error, mean=1e-9))


CORRUPTIONS: dict[str, Corruption] = {
    "broken sensor": Corruption(rows=_broken_sensor),
    "five cells of -9999": Corruption(rows=_five_cells),
    "scores x 30": Corruption(update=_scaled_scores(30.0)),
    "scores x 3": Corruption(update=_scaled_scores(3.0)),
    "scores / 3": Corruption(update=_scaled_scores(1 / 3)),
    "1 % huge scores": Corruption(update=_with_huge_scores(0.01)),
    "40 huge scores": Corruption(update=_with_values(scores=_repeated(1e30, 40))),
    "all scores tiny": Corruption(update=_scaled_scores(1e-12)),
    "10^12 rows": Corruption(update=_with_values(rows=10**12)),
    "residuals x 10^6": Corruption(update=_wrong_residuals(1e6)),
    "residuals x 3": Corruption(update=_wrong_residuals(3.0)),
    "spreads x 10^6": Corruption(moments=_scaled_spreads(1e6)),
    "spreads x 3": Corruption(moments=_scaled_spreads(3.0)),
    "10^12 rows in moments": Corruption(moments=lambda m: structs.replace(m, count=10**12)),
    "error 1e-9": Corruption(update=_tiny_error),
    "update x 100": Corruption(update=_scaled_update(100.0)),
    "update x -3": Corruption(update=_scaled_update(-3.0)),
    "slow drift": Corruption(update=_slow_drift),
    "backdoor": Corruption(rows=_backdoor),
}  # fmt: skip
"""By the name that the command line and the results have; `docs/benchmarks.md` shows them in groups."""
