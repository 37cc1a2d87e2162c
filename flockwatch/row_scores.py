"""`flockwatch score`: the rows of a file, scored as `flockwatch detect` scores the events of a stream."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from client.data.files.partitions import read_partition
from client.data.partition import Partition
from client.detection.scorer import Scorer
from common.model.manifest import Manifest, ManifestError
from common.protocol.alerts import Cause
from common.settings import DataSettings, Settings
from flockwatch.replay import ASSUMED_INTERVAL_S, ReplayedDetector, replayed_detector

log = logging.getLogger(__name__)

HEADING = f"{'row':>7}  {'score':>10}  {'threshold':>10}  {'verdict':<8}  causes"


class RowScore(msgspec.Struct, frozen=True):
    """The result for one row of a file."""

    row: int
    """Number of the row, from 1, without the header."""
    score: float | None
    """None for a row that the detector gave no verdict on: it had no whole window, or was still learning."""
    threshold: float | None
    """The threshold that the score was compared with."""
    anomaly: bool
    """Whether the score is above the threshold."""
    causes: tuple[Cause, ...]
    """Features with the largest shares of the error, largest first; none without a score."""

    def __str__(self) -> str:
        """Return a line of the table under `HEADING`."""
        verdict = "none" if self.score is None else "anomaly" if self.anomaly else "normal"
        causes = ", ".join(map(_described, self.causes))
        cells = (f"{_number(self.score):>10}", f"{_number(self.threshold):>10}", f"{verdict:<8}", causes)
        return "  ".join([f"{self.row:>7}", *cells]).rstrip()


def show(file: Path, version: Path, settings: Settings, *, as_json: bool) -> None:
    """Print the score, threshold, verdict and causes of each row, then how many are above the threshold.

    Args:
        file: Rows of one machine, CSV or Parquet.
        version: A manifest, of the fleet or of one client.
        settings: Sections `data`, `threshold` and `live` count.
        as_json: Whether to print a JSON object for each row, and nothing else.

    Raises:
        ManifestError, DataError, SchemaError: a file cannot be used, or the two do not fit.
    """
    try:
        manifest = Manifest.unpack(version.read_bytes())
    except ManifestError as error:
        raise ManifestError(f"{version}: {error}") from error
    partition = read_partition(file, _without_split(settings.data)).aligned(manifest.schema)
    interval_s = settings.threshold.interval_s or partition.interval_s
    if interval_s is None:
        log.warning(
            "the time between two rows is not known, so the threshold is set as if one came every %g s: "
            "set 'threshold.interval_s'",
            ASSUMED_INTERVAL_S,
        )
        interval_s = ASSUMED_INTERVAL_S
    if not as_json:
        print(HEADING)
    above = scored = 0
    for result in score_rows(manifest, partition, settings, interval_s):
        print(msgspec.json.encode(result).decode() if as_json else result)
        above += result.anomaly
        scored += result.score is not None
    if not as_json:
        print(
            f"{above} of {scored} scored rows above the threshold; {len(partition.rows) - scored} not scored"
        )
    sys.stdout.flush()


def score_rows(
    manifest: Manifest, partition: Partition, settings: Settings, interval_s: float
) -> Iterator[RowScore]:
    """Yield the result for each row, in order.

    Args:
        manifest: A version.
        partition: The rows, all of them training rows, with the features in the order of the version.
        settings: Sections `data`, `threshold` and `live` count.
        interval_s: Time between two rows.

    Raises:
        ReplayError: a row cannot be an event.
    """
    settings = settings.with_values(threshold={"interval_s": interval_s})
    with replayed_detector(manifest, settings, trains=False) as live:
        for number, row in enumerate(partition.rows):
            if not np.isfinite(row).any():
                yield RowScore(number + 1, None, None, anomaly=False, causes=())
                continue
            threshold, active = live.threshold, live.detector.active
            (verdict,) = live.step(row[None], np.array([number * interval_s])).verdicts
            if active is None or math.isnan(verdict.score):
                yield RowScore(number + 1, None, None, anomaly=False, causes=())
                continue
            causes = _causes(live, active.scorer, settings.live.explain)
            yield RowScore(number + 1, verdict.score, threshold, bool(verdict.anomaly), causes)


def _causes(live: ReplayedDetector, scorer: Scorer, count: int) -> tuple[Cause, ...]:
    """Return the causes of the newest event's score."""
    with np.errstate(over="ignore", invalid="ignore"):
        why = scorer.explain(live.detector.recent.last(scorer.window))
    names = live.detector.schema.features
    return tuple(
        Cause(names[i], float(why.share[i]), float(why.value[i]), float(why.expected[i]))
        for i in why.ordered(names)[:count]
        if np.isfinite(why.value[i])  # a feature that is missing explains nothing
    )


def _without_split(settings: DataSettings) -> DataSettings:
    """Return settings under which a file's rows are all of one kind, in the order of the file."""
    ignore = (*settings.ignore, settings.split, settings.label)
    return settings.model_copy(update={"split": f"no {settings.split}", "ignore": ignore})


def _described(cause: Cause) -> str:
    return (
        f"{cause.feature} {cause.share or 0:.0%} (seen {_number(cause.value)}, "
        f"expected {_number(cause.expected)})"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
