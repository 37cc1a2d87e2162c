"""VUS-PR: average precision that forgives a detector for being a little early or late, at every tolerance.

Source: Paparrizos, Boniol, Palpanas, Tsay, Elmore and Franklin 2022, "Volume Under the Surface: A New
Accuracy Evaluation Measure for Time-Series Anomaly Detection", VLDB 15(11), sections 4 and 5. Their program
samples 250 thresholds; here each score is one, so that the surface is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOLERANCE = 100
"""Largest buffer about an anomaly, in events: half of it before the anomaly, half after."""


def vus_pr(labels: NDArray[np.bool_], scores: NDArray[np.floating], tolerance: int = TOLERANCE) -> float:
    """The mean of the range-aware average precision over all buffers from 0 to `tolerance` events.

    Args:
        labels: Shape (n,): whether each event is an anomaly; at least one is.
        scores: Shape (n,), the higher the more anomalous; all finite.
        tolerance: The largest buffer.

    >>> vus_pr(np.array([False, True, True, False]), np.array([0.1, 0.9, 0.8, 0.2]), tolerance=0)
    1.0
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    """Where the events end that are flagged at each threshold, the highest first."""
    spans = runs(labels)
    buffers = range(tolerance + 1)
    return float(np.mean([_average_precision(labels, scores, spans, b, order, last) for b in buffers]))


def runs(flags: NDArray[np.bool_]) -> list[slice]:
    """Where runs of true begin and end.

    >>> runs(np.array([True, False, True, True]))
    [slice(0, 1, None), slice(2, 4, None)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _average_precision(
    labels: NDArray[np.bool_],
    scores: NDArray[np.floating],
    spans: list[slice],
    buffer: int,
    order: NDArray[np.intp],
    last: NDArray[np.intp],
) -> float:
    """Under the range-aware precision-recall curve of one buffer."""
    weights = softened(labels, spans, buffer)
    flagged = np.cumsum(weights[order])[last]
    """The true positives of each threshold: flagged events, each by its softened label."""
    # Positives are halfway between the true labels and those with the flagged part of the buffers.
    beyond = np.cumsum(np.where(labels, 0.0, weights)[order])[last]
    positives = labels.sum() + beyond / 2
    # The softened ranges that hold a flagged event, as a share of all.
    highest = np.sort([scores[span].max() for span in _ranges(spans, buffer, len(labels))])
    existing = 1 - np.searchsorted(highest, scores[order][last], side="left") / len(highest)
    recall = np.minimum(flagged / positives, 1.0) * existing
    precision = flagged / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def softened(labels: NDArray[np.bool_], spans: list[slice], buffer: int) -> Floats:
    """Labels from 0 to 1 that fall off on both sides of an anomaly, as `sqrt(1 - distance / buffer)`."""
    soft = labels.astype(np.float64)
    reach = buffer // 2
    for span in spans:
        before = np.arange(max(span.start - reach, 0), span.start)
        soft[before] += np.sqrt(1 - (span.start - before) / max(buffer, 1))
        after = np.arange(span.stop, min(span.stop + reach, len(soft)))
        soft[after] += np.sqrt(1 - (after - span.stop + 1) / max(buffer, 1))
    return np.minimum(soft, 1.0)


def _ranges(spans: list[slice], buffer: int, count: int) -> list[slice]:
    """Anomalies with their buffers; those that touch or overlap are one."""
    reach = buffer // 2
    merged: list[slice] = []
    for span in spans:
        start, stop = max(span.start - reach, 0), min(span.stop + reach, count)
        if merged and start < merged[-1].stop:
            merged[-1] = slice(merged[-1].start, stop)
        else:
            merged.append(slice(start, stop))
    return merged
