"""Reads versions of format 3, which releases up to 0.1.0 wrote, as versions of the present format.

Their scores are a REQ sketch of Apache DataSketches (Cormode et al. 2021, "Relative Error Streaming
Quantiles"): levels of scores, of which each stands for twice as many as one of the level below. They are read
as they lie in the file, without DataSketches, and counted in the buckets of a histogram.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.formats.bundle import Arrays
from common.model.histogram import ScoreHistogram
from common.model.weights import digest

FORMAT = 3
_PREAMBLE = struct.Struct("<BBBBHBB")
"""Size in integers, version, family, flags, k, number of levels, number of raw scores."""
_WHOLE_BYTES = 16
"""Number of scores, smallest and largest, before several levels."""
_LEVEL = struct.Struct("<QfBBHI")
"""State, section size, level, sections, padding, number of scores."""
_FAMILY, _EMPTY, _MAX_LEVELS = 17, 4, 40


class EarlierFormatError(ValueError):
    """A file of format 3 is damaged; the message says what is wrong."""


def upgraded(fields: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return fields and arrays of a file of format 3 as those of the present format, but for the hash.

    Args:
        fields: As the file has them.
        arrays: Likewise.

    Raises:
        EarlierFormatError: the content does not have the hash that the file names, or the scores are damaged.
        KeyError: an array is missing.
    """
    hashed = {name: value for name, value in fields.items() if name != "hash"}
    if not hashed.get("personalised"):
        hashed.pop("personalised", None)
    content = f"{json.dumps(hashed, sort_keys=True)}{digest(arrays)}"
    content_hash = hashlib.sha256(content.encode()).hexdigest()
    if content_hash != fields.get("hash"):
        named = str(fields.get("hash"))
        raise EarlierFormatError(f"hash is {content_hash[:12]}, but the manifest says {named[:12]}")
    scores = _histogram(arrays["scores"].tobytes())
    settings = {**fields["settings"], "detector": {"family": "autoencoder"}}
    personalised = fields.get("personalised")
    if personalised is None:
        personalised = _looks_personalised(settings, arrays, scores.count)
    return (
        {**fields, "personalised": personalised, "settings": settings},
        {**arrays, "scores": np.frombuffer(scores.pack(), np.uint8)},
    )


def _histogram(content: bytes) -> ScoreHistogram:
    """Return the scores of a REQ sketch.

    Raises:
        EarlierFormatError: the bytes are no such sketch.
    """
    try:
        _, _, family, flags, _, levels, raw = _PREAMBLE.unpack_from(content)
        if family != _FAMILY or levels > _MAX_LEVELS:
            raise EarlierFormatError("the scores are no REQ sketch")
        if flags & _EMPTY:
            return ScoreHistogram.empty()
        if raw:
            return _weighted(np.frombuffer(content, "<f4", raw, _PREAMBLE.size), 0)
        at, parts = _PREAMBLE.size + (_WHOLE_BYTES if levels > 1 else 0), []
        for level in range(levels):
            *_, count = _LEVEL.unpack_from(content, at)
            at += _LEVEL.size
            parts.append(_weighted(np.frombuffer(content, "<f4", count, at), level))
            at += 4 * count
    except (struct.error, ValueError) as error:  # also a HistogramError
        raise EarlierFormatError(f"the scores are damaged: {error}") from error
    return ScoreHistogram.merge_all(parts)


def _weighted(scores: NDArray[np.float32], level: int) -> ScoreHistogram:
    histogram = ScoreHistogram.of(scores)
    return ScoreHistogram(histogram.buckets, histogram.counts << level)


def _looks_personalised(settings: dict[str, Any], arrays: Arrays, scores: int) -> bool:
    """Return whether a file that does not say so holds a version that a client has personalised.

    Personalised moments have one ratio of the spread of all rows to the spread within clients, the same for
    all features (`Moments.for_client`). In a fleet's moments the distances between its clients' means add to
    the spread, for each feature by another ratio. A fleet of one client has the ratio 1 too, but its
    residuals and its scores are of the same windows.
    """
    within, m2 = arrays["moments/within"], arrays["moments/m2"]
    varying, by = within > 0, settings.get("scaling", {}).get("by")
    if by not in ("shared", "client") or not np.array_equal(varying, m2 > 0):
        return False
    if arrays["residuals"][0] == scores:
        return False
    ratios = m2[varying] / within[varying]
    expected = ratios[:1] if len(ratios) > 1 else 1.0
    return bool(np.allclose(ratios, expected, rtol=1e-9))
