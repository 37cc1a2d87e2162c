"""VUS-PR: average precision that tolerates early and late detections, averaged over tolerances.

Source: Paparrizos, Boniol, Palpanas, Tsay, Elmore and Franklin 2022, "Volume Under the Surface: A New
Accuracy Evaluation Measure for Time-Series Anomaly Detection", VLDB 15(11), sections 4 and 5. The authors'
program samples 250 thresholds; here each score is a threshold, so the result is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_BUFFER = 100
"""Largest buffer around an anomaly, in events: half of it before, half after."""


def vus_pr(labels: NDArray[np.bool_], scores: NDArray[np.floating], max_buffer: int = MAX_BUFFER) -> float:
    """Return the range-aware average precision, averaged over all buffers from 0 to `max_buffer` events.

    Args:
        labels: Whether each event is an anomaly, shape (n,); at least one is.
        scores: Finite scores, shape (n,); the higher, the less normal.
        max_buffer: The largest buffer, in events.

    >>> vus_pr(np.array([False, True, True, False]), np.array([0.1, 0.9, 0.8, 0.2]), max_buffer=0)
    1.0
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    """Index of the last event above each threshold, in the order of falling scores."""
    spans = runs(labels)
    buffers = range(max_buffer + 1)
    return float(np.mean([_average_precision(labels, scores, spans, b, order, last) for b in buffers]))


def runs(flags: NDArray[np.bool_]) -> list[slice]:
    """Return the runs of consecutive true values.

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
    """Return the area under the range-aware precision-recall curve of one buffer.

    Args:
        labels: Whether each event is an anomaly.
        scores: The score of each event.
        spans: The runs of `labels`.
        buffer: The buffer, in events.
        order: Indices of the events by falling score.
        last: For each threshold, the position in `order` of the last event above it.
    """
    weights = soft_labels(labels, spans, buffer)
    true_positives = np.cumsum(weights[order])[last]
    # The number of positives lies halfway between the labels and those with the detected part of the buffers.
    in_buffers = np.cumsum(np.where(labels, 0.0, weights)[order])[last]
    positives = labels.sum() + in_buffers / 2
    # Existence reward: the share of anomalies with a detected event in them or in their buffers.
    highest = np.sort([scores[span].max() for span in _ranges(spans, buffer, len(labels))])
    existing = 1 - np.searchsorted(highest, scores[order][last], side="left") / len(highest)
    recall = np.minimum(true_positives / positives, 1.0) * existing
    precision = true_positives / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def soft_labels(labels: NDArray[np.bool_], spans: list[slice], buffer: int) -> Floats:
    """Return labels from 0 to 1 that fall on both sides of an anomaly, as `sqrt(1 - distance / buffer)`."""
    soft = labels.astype(np.float64)
    reach = buffer // 2
    for span in spans:
        before = np.arange(max(span.start - reach, 0), span.start)
        soft[before] += np.sqrt(1 - (span.start - before) / max(buffer, 1))
        after = np.arange(span.stop, min(span.stop + reach, len(soft)))
        soft[after] += np.sqrt(1 - (after - span.stop + 1) / max(buffer, 1))
    return np.minimum(soft, 1.0)


def _ranges(spans: list[slice], buffer: int, count: int) -> list[slice]:
    """Return the anomalies with their buffers; those that touch or overlap are merged."""
    reach = buffer // 2
    merged: list[slice] = []
    for span in spans:
        start, stop = max(span.start - reach, 0), min(span.stop + reach, count)
        if merged and start < merged[-1].stop:
            merged[-1] = slice(merged[-1].start, stop)
        else:
            merged.append(slice(start, stop))
    return merged
